"""PostgreSQL as a private server for the tests: its own data directory, a free loopback port, ended by its own pid."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import threading
from urllib.parse import urlsplit

import psycopg

from celery_guardrails.store.engine import open_store
from tests.servers import Server, find_program

__all__ = ["PostgreSQLServer"]

_FOLDERS = ("/usr/lib/postgresql/*/bin",)
_USER = "guardrails"


class PostgreSQLServer(Server):
    """A PostgreSQL whose every `fresh_url` names a database that nobody has used."""

    name = "postgresql"

    def __init__(self) -> None:
        self._initdb = find_program("initdb", folders=_FOLDERS, install="postgresql")
        self._postgres = find_program("postgres", folders=_FOLDERS, install="postgresql")
        super().__init__()
        self._databases = itertools.count(1)
        self._one_template = threading.Lock()
        self._template = ""

    @property
    def url(self) -> str:
        """The administrator's database."""
        return f"postgresql://{_USER}@{self.host}:{self.port}/postgres"

    def fresh_url(self) -> str:
        """A new, empty database."""
        return self._created()

    def migrated_url(self) -> str:
        """A new database with the archive's tables: a copy of one that was migrated once."""
        with self._one_template:
            if not self._template:
                url = self.fresh_url()
                store = open_store(url)
                store.migrate()
                store.close()
                self._template = urlsplit(url).path[1:]
        return self._created(f"TEMPLATE {self._template}")

    def release(self, url: str) -> None:
        """Drop a database."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(f"DROP DATABASE IF EXISTS {urlsplit(url).path[1:]} WITH (FORCE)")

    def _created(self, options: str = "") -> str:
        name = f"archive_{next(self._databases)}"
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name} {options}")
        return self.url.removesuffix("postgres") + name

    def _prepare(self) -> None:
        if (self.directory / "data").exists():
            return
        if os.geteuid() == 0:
            shutil.chown(self.directory, "postgres", "postgres")
        options = ["-U", _USER, "--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions"]
        command = _as_postgres([self._initdb, "-D", str(self.directory / "data"), *options])
        subprocess.run(command, check=True, capture_output=True, cwd=self.directory)

    def _command(self) -> list[str]:
        # nobody's data have to outlive a power cut; all processes of a run share the connections
        settings = ("fsync=off", "autovacuum=off", "max_connections=400")
        options = ["-h", self.host, "-p", str(self.port), "-k", str(self.directory)]
        for setting in settings:
            options += ["-c", setting]
        return _as_postgres([self._postgres, "-D", str(self.directory / "data"), *options])

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self) -> None:
        if self.is_running:
            self._signal(signal.SIGQUIT)  # at once, without writing anything, and with all its processes
        self._reap()

    def _signal(self, number: signal.Signals) -> None:
        # SIGTERM waits for clients to leave, SIGINT sends them away
        super()._signal(signal.SIGINT if number is signal.SIGTERM else number)


def _as_postgres(command: list[str]) -> list[str]:
    # it refuses to run as root; setpriv replaces itself by the command, so that the pid is the server's
    if os.geteuid() != 0:
        return command
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command]
