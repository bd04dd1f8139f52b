"""The demo's processes: started with a log file each, watched, and stopped by their own pid whatever happens.

Each gets a session of its own, so that Ctrl-C in the terminal reaches the demo alone, which then stops them in order.
It must not know what they are.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Actor", "Stage", "StageError", "must_wait", "uninterrupted"]

_START_WITHIN = 40.0
_STOP_WITHIN = 15.0
_LOOK_AGAIN = 0.1


_held: list[bool] = []


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back while the main thread starts a process and notes it: else nobody would know what to stop."""
    if threading.current_thread() is not threading.main_thread():  # Python interrupts no other thread
        yield
        return
    _held.append(True)
    try:
        yield
    finally:
        _held.pop()


def must_wait() -> bool:
    """Whether a handler of Ctrl-C has to come again later."""
    return bool(_held)


class StageError(Exception):
    """A process ended by itself, or something did not happen in time."""


@dataclass(frozen=True)
class Actor:
    """One process that the demo started."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int) -> list[str]:
        """The last lines of its log."""
        return self.log.read_text(errors="replace").splitlines()[-lines:]


class Stage:
    """Starts processes and stops them; a context manager that leaves none behind.

    Args:
        directory: where the logs go.
        cwd: the processes' working directory.
        environ: the processes' environment, as it is when each starts.
    """

    def __init__(self, directory: Path, cwd: Path, environ: Mapping[str, str]) -> None:
        self._directory = directory
        self._cwd = cwd
        self._environ = environ
        self.actors: list[Actor] = []
        self._commands: list[subprocess.Popen[str]] = []
        self._stopped: set[str] = set()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str]) -> Actor:
        """Start a process; what it prints goes to its log."""
        log = self._directory / f"{name}.log"
        with log.open("wb") as output, uninterrupted():
            process = subprocess.Popen(
                command, cwd=self._cwd, env=dict(self._environ), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            actor = Actor(name, process, log)
            self.actors.append(actor)
        return actor

    def run(self, command: Sequence[str], environ: Mapping[str, str], seconds: float) -> tuple[int, str, str]:
        """Run a command to its end; returns its exit code and what it wrote to stdout and stderr.

        Raises:
            subprocess.TimeoutExpired: it did not end within so many seconds, and was killed.
        """
        with uninterrupted():
            process = subprocess.Popen(
                command, cwd=self._cwd, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            self._commands.append(process)
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return process.returncode, stdout, stderr

    def wait_for_log(self, actor: Actor, pattern: str) -> str:
        """Wait until a process has printed something, and return the first group of the match.

        Raises:
            StageError: it did not in time, or a process ended by itself.
        """
        found: list[str] = []

        def printed() -> bool:
            match = re.search(pattern, actor.log.read_text(errors="replace"))
            found.extend(match.groups() or (match[0],) if match else ())
            return bool(found)

        self.wait_until(printed, f"the {actor.name} is ready", _START_WITHIN)
        return found[0]

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until a condition holds.

        Raises:
            StageError: it did not within so many seconds, or a process ended by itself.
        """
        until = time.monotonic() + seconds
        while not condition():
            if failed := self.failed():
                raise StageError(f"the {failed[0].name} ended by itself, with exit code {failed[0].process.returncode}")
            if time.monotonic() > until:
                raise StageError(f"waited {seconds:g} seconds, in vain, until {what}")
            time.sleep(_LOOK_AGAIN)

    def failed(self) -> list[Actor]:
        """The processes that have ended, though nobody told them to."""
        return [a for a in self.actors if a.process.poll() is not None and a.name not in self._stopped]

    def stop(self) -> None:
        """Ask every process to end, the last started first, and kill the process group of what does not."""
        living = [actor for actor in reversed(self.actors) if actor.process.poll() is None]
        for actor in living:
            self._stopped.add(actor.name)
            actor.process.terminate()
        for command in self._commands:
            if command.poll() is None:
                command.kill()
                command.communicate()
        until = time.monotonic() + _STOP_WITHIN
        for actor in living:
            try:
                actor.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                # start_new_session made its pid the id of its group: with a worker, its pool's processes go too
                os.killpg(actor.process.pid, signal.SIGKILL)
                actor.process.wait()
