"""PostgreSQL as a private server for the tests: its own data directory, a free loopback port, ended by its own pid."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess

import psycopg

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

    @property
    def url(self) -> str:
        """The administrator's database."""
        return f"postgresql://{_USER}@{self.host}:{self.port}/postgres"

    def fresh_url(self) -> str:
        """A new, empty database."""
        name = f"archive_{next(self._databases)}"
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name}")
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
        options = ["-h", self.host, "-p", str(self.port), "-k", str(self.directory), "-c", "fsync=off"]
        return _as_postgres([self._postgres, "-D", str(self.directory / "data"), *options])

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        # SIGTERM waits for clients to leave, SIGINT sends them away
        super()._signal(signal.SIGINT if number is signal.SIGTERM else number)


def _as_postgres(command: list[str]) -> list[str]:
    # it refuses to run as root; setpriv replaces itself by the command, so that the pid is the server's
    if os.geteuid() != 0:
        return command
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command]
