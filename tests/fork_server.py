"""Starts `celery` processes by fork from one that has read Celery and the package already.

A test process has one server, which knows the modules that every command reads, and nothing else: no application, no
connection, no thread. A command that it starts is a copy of it that becomes a process of its own (session, folder,
environment, output) and then runs `python -m celery` as the interpreter would, to its ordinary end. What Python looks
at only when it starts cannot be had this way: `suits` says so, and such a process is started anew.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import celery_guardrails
from tests.wire import Wire

__all__ = ["ForkServer", "Forked", "fork_server", "suits"]

# what the interpreter, the C library or a module's import reads, so that a change of it comes too late in a fork
_READ_AT_START = (
    *("PYTHON", "COVERAGE", "LC_", "LANG", "LD_", "MALLOC_", "TZ", "SSL_", "KOMBU_", "FORKED_BY_", "MP_LOG"),
    *("C_BENCH", "C_IMPDEBUG", "C_REMDEBUG", "C_STRICT_APP", "C_WARN_APP", "C_WNOCONF", "CELERY_BENCH", "CELERY_TRACE"),
)
_AT_START = dict(os.environ)
_MODULES = (
    "celery.bin.celery",
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.concurrency.prefork",
    "celery.worker.consumer",
    "kombu.transport.pyamqp",
    "kombu.transport.redis",
    "celery_guardrails.cli",
    "alembic.command",
    "sqlalchemy.dialects.sqlite",
)
_EVERY = 0.02
_ROOT = Path(__file__).resolve().parent.parent


def suits(arguments: Sequence[str], environment: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Whether a process that is forked behaves as one that is started anew.

    Args:
        arguments: those of `celery`.
        environment: the process's.
        own: the environment that the server was started with.
    """
    # green pools change the standard library before anything imports it; `guardrails check` is told by the arguments
    # that the process starts with that no wrong declaration may stop an import
    if {"gevent", "eventlet", "check"} & set(arguments):
        return False
    names = {name for name in {*environment, *own} if name.startswith(_READ_AT_START)}
    return all(environment.get(name) == own.get(name) for name in names)


class Forked:
    """A process that the server started; what `subprocess.Popen` is for others."""

    def __init__(self, server: ForkServer, pid: int, arguments: Sequence[str]) -> None:
        self.pid = pid
        self._server = server
        self._arguments = arguments
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, a negative signal number, or `None` while it runs."""
        if self._code is None:
            self._code = self._server.ask(do="poll", pid=self.pid)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        ends = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if ends is not None and time.monotonic() >= ends:
                raise subprocess.TimeoutExpired(list(self._arguments), timeout or 0)
            time.sleep(_EVERY)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self._code is None:
            self._code = self._server.ask(do="signal", pid=self.pid, number=int(number))


class ForkServer:
    """The server as the tests see it; it ends when this object, or the test process, is gone.

    Args:
        environment: the variables that the server starts with.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        mine, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(its.fileno())],
                cwd=_ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
                start_new_session=True,
            )
        with mine:
            self._wire = Wire(mine)

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, out: Path, err: Path
    ) -> Forked:
        """Start `python -m celery ARGUMENTS`; `out` and `err` get what it prints, after what they have already."""
        for log in (out, err):
            log.touch()
        pid = self.ask(
            do="start", arguments=list(arguments), environment=dict(environment), folder=str(folder),
            out=str(out), err=str(err),
        )  # fmt: skip
        return Forked(self, pid, ["celery", *arguments])

    def ask(self, **what: Any) -> Any:
        """Ask the server for one thing.

        Raises:
            EOFError: it has ended.
        """
        return self._wire.ask(what)

    @property
    def is_running(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the server; what it started runs on."""
        self._wire.close()
        self._process.wait()


_made: list[ForkServer] = []


def fork_server() -> ForkServer:
    """This test process's server, started at the first call, with the variables that the test process began with."""
    if not _made or not _made[-1].is_running:
        _made.append(ForkServer(with_root(_AT_START)))
    return _made[-1]


def with_root(environment: Mapping[str, str]) -> dict[str, str]:
    """These variables for a Python that finds the package and its tests, and keeps no output back."""
    path = os.pathsep.join(filter(None, [str(_ROOT), environment.get("PYTHONPATH", "")]))
    return {**environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _serve(descriptor: int) -> dict[str, Any] | None:
    """Answer the tests; returns what to run in each process that is started, and nothing when the tests are gone."""
    for name in [*_MODULES, *_package()]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    ended: dict[int, int] = {}

    def answer(asked: dict[str, Any]) -> int | None:
        if asked["do"] == "start":
            if not (pid := _fork()):
                raise _Forked(asked)
            return pid
        code = _poll(asked["pid"], ended)
        if code is None and asked["do"] == "signal":
            os.kill(asked["pid"], asked["number"])
        return code

    with socket.socket(fileno=descriptor) as control:
        wire = Wire(control)
    try:
        wire.serve(answer)
    except _Forked as forked:
        return dict(forked.asked)
    finally:
        wire.close()
    return None


class _Forked(Exception):
    """Raised in the new process, which has nothing to answer: what it shall become."""

    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__(asked)
        self.asked = asked


def _package() -> Iterator[str]:
    """The package's modules that a command reads: not the stand-ins for tests, nor what only migrations run."""
    for found in pkgutil.walk_packages(celery_guardrails.__path__, "celery_guardrails."):
        if not {"testing", "migrations", "__main__"} & set(found.name.split(".")):
            yield found.name


def _fork() -> int:
    """Fork; the child leads a session of its own by the time that this returns."""
    ready, done = os.pipe()
    pid = os.fork()
    if not pid:
        os.setsid()
        os.close(ready)
        os.close(done)
        return 0
    os.close(done)
    os.read(ready, 1)
    os.close(ready)
    return pid


def _poll(pid: int, ended: dict[int, int]) -> int | None:
    if pid not in ended:
        found, status = os.waitpid(pid, os.WNOHANG)
        if not found:
            return None
        ended[pid] = os.waitstatus_to_exitcode(status)
    return ended[pid]


def _become(asked: dict[str, Any]) -> None:
    """Turn this process into what was asked for, and run it."""
    for descriptor, path in ((1, asked["out"]), (2, asked["err"])):
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, descriptor)
        os.close(log)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[0] = asked["folder"]
    sys.argv[1:] = asked["arguments"]
    runpy.run_module("celery", run_name="__main__", alter_sys=True)


if __name__ == "__main__" and (_asked := _serve(int(sys.argv[1]))) is not None:
    _become(_asked)
