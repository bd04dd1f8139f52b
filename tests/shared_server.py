"""One server of each kind for all processes of a test run, for the tests that only use it.

The process that leads the run (the only one, or xdist's controller) starts a server when the first test wants it, hands
out what is each test's own in it (a Redis database, a virtual host, a PostgreSQL database), and ends it with the run;
its reaper does so where that process is killed. Test processes ask it over a socket. Whoever stops, pauses or
reconfigures a server takes a private one, by the mark `own_servers`: what is shared refuses that.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import amqp

from tests.rabbitmq import RabbitMQServer
from tests.servers import RedisServer, Server, ServerMissing
from tests.servers_postgres import PostgreSQLServer
from tests.wire import Wire

__all__ = ["Ask", "RunClient", "RunServers", "SharedServer"]

Ask = Callable[..., Any]
"""`ask(kind, what, *arguments)`: asks for something of the server of that kind."""

_KINDS: dict[str, type[Server]] = {kind.name: kind for kind in (RedisServer, RabbitMQServer, PostgreSQLServer)}
_NOT_SHARED = ("close", "close_all_connections", "directory", "kill", "log", "pause", "pid", "resume", "stop")


class RunServers:
    """The servers of a run, in the process that leads it."""

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}
        self._locks = {kind: threading.Lock() for kind in _KINDS}
        self._folder: Path | None = None
        self._listener: socket.socket | None = None
        self._is_over = False

    def ask(self, kind: str, what: str, *arguments: str) -> Any:
        """Do one thing for a test: `address` (host and port), or a method of the server with text as its arguments.

        Raises:
            ServerMissing: the server is not installed.
            AssertionError: it does not start, or does not do that.
        """
        with self._locks[kind]:
            assert not self._is_over, "the run is over, and its servers have ended"
            if kind not in self._servers:
                self._servers[kind] = made = _KINDS[kind]()
                if isinstance(made, RabbitMQServer):
                    made.makes_ahead = True
            server = self._servers[kind]
            server.start()
        return (server.host, server.port) if what == "address" else getattr(server, what)(*arguments)

    def listen(self) -> str:
        """Answer other processes, too; returns the path of the socket."""
        if self._listener is None:
            self._folder = Path(tempfile.mkdtemp(prefix="guardrails-run-"))
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self._folder / "socket"))
            self._listener.listen(64)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return str(self._folder / "socket")

    def close(self) -> None:
        """End all servers, and start none any more."""
        self._is_over = True
        if self._listener is not None:
            self._listener.close()
        for server in self._servers.values():
            server.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            wire = Wire(connection)
        with suppress(OSError):  # a test process that was killed
            wire.serve(self._answered)
            wire.close()

    def _answered(self, question: list[str]) -> dict[str, Any]:
        try:
            return {"gives": self.ask(*question)}
        except ServerMissing as missing:
            return {"missing": str(missing)}
        except Exception as fault:  # noqa: BLE001 raised by who asked
            return {"failed": str(fault) or repr(fault)}


class RunClient:
    """Asks the process that leads the run, from another one.

    Args:
        path: the socket.
    """

    def __init__(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            self._wire = Wire(connection)

    def ask(self, *what: str) -> Any:
        """As `RunServers.ask`."""
        try:
            answer = self._wire.ask(what)
        except (EOFError, OSError):
            answer = {"failed": "the process that leads this run is gone"}
        if "missing" in answer:
            raise ServerMissing(answer["missing"])
        assert "gives" in answer, answer["failed"]
        return answer["gives"]

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()


class SharedServer:
    """A server that other tests use at the same time.

    Args:
        ask: who has it.
        kind: `redis`, `rabbitmq` or `postgresql`.

    Raises:
        ServerMissing: it is not installed.
    """

    def __init__(self, ask: Ask, kind: str) -> None:
        self.name = kind
        self._ask = ask
        self.host, self.port = ask(kind, "address")

    def start(self) -> None:
        """Start it, should it have ended."""
        self._ask(self.name, "address")

    def fresh_url(self) -> str:
        """A database or a virtual host that nobody has used."""
        return str(self._ask(self.name, "fresh_url"))

    def migrated_url(self) -> str:
        """PostgreSQL: a database with the archive's tables, empty."""
        return str(self._ask(self.name, "migrated_url"))

    def release(self, url: str) -> None:
        """Give back what `fresh_url` gave; it is removed some time later."""
        self._ask(self.name, "release", url)

    def control(self, *arguments: str) -> str:
        """RabbitMQ: what rabbitmqctl prints."""
        return str(self._ask(self.name, "control", *arguments))

    def allow(self, user: str, vhost: str, configure: str, write: str, read: str, password: str = "") -> None:
        """RabbitMQ: give a user rights on a virtual host; with a password the user is made first."""
        self._ask(self.name, "allow", user, vhost, configure, write, read, password)

    @contextmanager
    def admin(self, vhost: str) -> Iterator[amqp.Channel]:
        """RabbitMQ: a channel with all rights on a virtual host."""
        with amqp.Connection(f"{self.host}:{self.port}", virtual_host=vhost) as connection:
            yield connection.channel()

    def __getattr__(self, name: str) -> NoReturn:
        if name in _NOT_SHARED:
            raise AssertionError(f"other tests use this {self.name}: mark the test with own_servers for `{name}`")
        raise AttributeError(name)
