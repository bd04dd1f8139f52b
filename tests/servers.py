"""Private servers for the tests: each on free loopback ports, with a directory of its own, ended by its own pid.

Owns the life of a server, whatever it is, and Redis. RabbitMQ is in `rabbitmq.py`; the fixtures are in `conftest.py`.
"""

from __future__ import annotations

import atexit
import glob
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar

from tests.port import reserve_port
from tests.reaper import reaper
from tests.waiting import wait_until

__all__ = [
    "RedisCluster", "RedisServer", "Server", "ServerMissing", "find_program", "is_alive", "tail", "wait_until_stopped",
]  # fmt: skip


class ServerMissing(Exception):
    """A server's program is not on this machine; the message says how to install it."""


def find_program(*names: str, folders: tuple[str, ...] = (), install: str) -> str:
    """Where the first of these programs is: in `folders` (patterns allowed, looked into first), else on PATH.

    Raises:
        ServerMissing: there is none; `install` names the Debian package in the hint.
    """
    for name in names:
        for pattern in folders:
            for found in sorted(glob.glob(f"{pattern}/{name}"), reverse=True):
                if os.access(found, os.X_OK):
                    return found
        if on_path := shutil.which(name):
            return on_path
    raise ServerMissing(f"{names[0]} is not installed: make servers, or sudo apt-get install {install}")


def tail(path: Path, lines: int = 60) -> str:
    """The last lines of a log, for a failure's message."""
    if not path.exists():
        return f"({path.name}: not written)"
    return "\n".join(path.read_text("utf-8", errors="replace").splitlines()[-lines:])


def is_alive(pid: int) -> bool:
    """Whether a process runs, a zombie not counted."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


def wait_until_stopped(pid: int) -> None:
    """Wait until SIGSTOP has stopped each thread: on a busy machine some run on until one has taken the signal."""

    def is_stopped() -> bool:
        states = [_state(thread) for thread in Path(f"/proc/{pid}/task").glob("*")]
        return all(state in ("T", "t", "Z", "X", "") for state in states)

    wait_until(is_stopped, 30.0, f"process {pid} is stopped", every=0.005)


def _state(thread: Path) -> str:
    try:
        return (thread / "stat").read_text().rpartition(") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return ""


class Server:
    """The life of one private server. A kind of server says its `name`, `_command`, `_answers`, and `url`.

    The data outlive `stop` and `kill`: `start` brings the same server back, on the same port.
    """

    name: ClassVar[str]
    start_bound: ClassVar[float] = 60.0
    """Seconds within which it has to answer."""
    further_ports: ClassVar[tuple[int, ...]] = ()
    """Ports that the program opens by itself, counted from its first one."""

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self.port = reserve_port(*self.further_ports)
        self.directory = Path(tempfile.mkdtemp(prefix=f"guardrails-{self.name}-"))
        self.log = self.directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watched: int | None = None
        atexit.register(self.close)

    @property
    def url(self) -> str:
        """What a client connects to."""
        raise NotImplementedError

    def _command(self) -> list[str]:
        """The command that runs it in the foreground."""
        raise NotImplementedError

    def _answers(self) -> bool:
        """Whether it takes connections."""
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _prepare(self) -> None:
        """What has to be there before each start."""

    def _pid(self) -> int | None:
        """The server's own pid, where the command that was started is only a wrapper around it."""
        return self._process.pid if self._process else None

    @property
    def pid(self) -> int:
        """The server's pid.

        Raises:
            AssertionError: it does not run.
        """
        pid = self._pid() if self.is_running else None
        assert pid is not None, f"{self.name} does not run"
        return pid

    @property
    def is_running(self) -> bool:
        """Whether its process runs (it may be paused)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers. Does nothing while it runs, but for ending a pause.

        Raises:
            AssertionError: it ended, or did not answer in time; the message has the tail of its log.
        """
        if self.is_running:
            self.resume()
            return
        self._reap()
        self._prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        reaper().watch(self._process.pid)
        try:
            wait_until(self._is_up, self.start_bound, f"{self.name} answers", every=0.1)
        except AssertionError as fault:
            self._end_group()
            raise AssertionError(f"{fault}\n{self.name}'s log ends:\n{tail(self.log)}") from None
        if (pid := self.pid) != self._process.pid:
            self._watched = pid
            reaper().watch(pid)

    def _is_up(self) -> bool:
        if not self.is_running:
            raise AssertionError(f"{self.name} ended by itself at start")
        return self._answers()

    def stop(self, bound: float = 20.0) -> None:
        """End it as an operator would, by SIGTERM; after `bound` seconds by SIGKILL."""
        if self.is_running:
            self.resume()
            self._signal(signal.SIGTERM)
            assert self._process is not None
            try:
                self._process.wait(bound)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reap()

    def kill(self) -> None:
        """End it by SIGKILL, as a power cut would."""
        if self.is_running:
            self._signal(signal.SIGKILL)
        self._reap()

    def pause(self) -> None:
        """Freeze it by SIGSTOP: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)
        wait_until_stopped(self.pid)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it for good and remove its directory."""
        atexit.unregister(self.close)
        self._end()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self) -> None:
        """End it in the quickest way that leaves no process behind; its data are not wanted any more."""
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        pid = self._pid()
        if pid is not None and is_alive(pid):
            os.kill(pid, number)

    def _reap(self) -> None:
        """Collect what was started, so that neither a zombie nor a stale pid stays behind."""
        if self._process is None:
            return
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:  # the server is gone, but its wrapper is not
            self._end_group()
        for pid in (self._process.pid, self._watched):
            if pid is not None:
                reaper().forget(pid)
        self._process = self._watched = None

    def _end_group(self) -> None:
        assert self._process is not None
        self._signal(signal.SIGKILL)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class RedisServer(Server):
    """A private Redis (or Valkey). Its data are in an append-only file, so that they outlive even `kill`."""

    name = "redis"
    _databases = 16384

    def __init__(self) -> None:
        self._program = find_program("redis-server", "valkey-server", install="redis-server")
        super().__init__()
        self._fresh = itertools.count(1)

    @property
    def url(self) -> str:
        """Database 0, which no test gets from `fresh_url`."""
        return f"redis://{self.host}:{self.port}/0"

    def fresh_url(self) -> str:
        """A database that nobody has used."""
        number = next(self._fresh)
        assert number < self._databases, "more databases wanted than this Redis has"
        return f"redis://{self.host}:{self.port}/{number}"

    def release(self, url: str) -> None:
        """Nothing has to be done: there are databases enough."""

    def _command(self) -> list[str]:
        options = {
            "bind": self.host,
            "port": str(self.port),
            "dir": str(self.directory),
            "databases": str(self._databases),
            "save": "",
            "appendonly": "yes",
            "daemonize": "no",
        }
        return [self._program, *(word for key, value in options.items() for word in (f"--{key}", value))]

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=2.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")  # while it still loads it says -LOADING
        except OSError:
            return False


class RedisCluster(RedisServer):
    """A Redis in cluster mode, one node: whoever starts it gives it all slots."""

    further_ports = (10_000,)  # the cluster bus

    def _command(self) -> list[str]:
        command = super()._command()
        place = command.index("--databases")
        return [*command[:place], *command[place + 2 :], "--cluster-enabled", "yes"]
