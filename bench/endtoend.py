"""Real workers on Redis: how many tasks, or attempts, a second a prefork worker with two processes gets through.

Two workers, one of plain Celery and one with guardrails, each with a database of its own. Both are stopped (SIGSTOP)
but for the one that is measured; it is stopped too while its queue is filled, then let go, and the clock runs until
queue and unacknowledged messages are gone.
"""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from bench.figure import Pair, alternate

__all__ = ["Drain", "dying", "failing_path", "runs", "success_path", "success_path_late", "worker"]

_DEADLINE = 120.0
_POLL = 0.01
"""Seconds; a measurement takes some seconds."""


@contextmanager
def worker(module: str, url: str, **variables: str) -> Iterator[Drain]:
    """A prefork worker with two processes on this broker, stopped; `module` is `plain`, `guarded` or `rival`."""
    command = [sys.executable, "-m", "celery", "-A", f"bench.{module}", "worker", "-c", "2", "-l", "warning",
               "-n", f"{module}@bench", "--without-gossip", "--without-mingle"]  # fmt: skip
    environment = {**os.environ, f"{module.upper()}_URL": url, **variables}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "worker.log"
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        try:
            drain = Drain(module, url, process)
            drain.rate(drain.app.tasks["bench.works"], 1)
            yield drain
        except BaseException:
            sys.stderr.write(log.read_text(errors="replace")[-3000:])
            raise
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(30)


class Drain:
    """Fills the queue of a stopped worker, times how long it takes to empty it, and stops it again."""

    def __init__(self, module: str, url: str, process: subprocess.Popen[bytes]) -> None:
        self.app: Celery = importlib.import_module(f"bench.{module}").app
        self._url = url
        self.process = process
        self._redis = redis.Redis.from_url(url)
        self._numbers = itertools.count(1)

    def rate(self, task: Any, count: int) -> float:
        """Tasks a second; each has another number, because the same arguments may be the same work."""
        # a connection of its own: two workers may run the same application, each with its own broker
        with self.app.connection_for_write(self._url) as connection:
            producer = self.app.amqp.Producer(connection)
            for _ in range(count):
                task.apply_async((next(self._numbers), 2), producer=producer)
        self.process.send_signal(signal.SIGCONT)
        started = time.perf_counter()
        self._wait_until_empty()
        seconds = time.perf_counter() - started
        self.process.send_signal(signal.SIGSTOP)
        self._redis.delete("bench.dead")
        return count / seconds

    def _wait_until_empty(self) -> None:
        until = time.monotonic() + _DEADLINE
        while time.monotonic() < until:
            if self._is_empty():
                # a retry is published before its attempt is acknowledged: empty twice is empty
                time.sleep(0.002)
                if self._is_empty():
                    return
            # asked every 2 ms, Redis and this process would take a tenth of the machine from what is measured
            time.sleep(_POLL)
        raise RuntimeError(f"the worker did not empty its queue in {_DEADLINE:.0f} s")

    def _is_empty(self) -> bool:
        with self._redis.pipeline(transaction=False) as both:
            waiting, unacknowledged = both.llen("celery").hlen("unacked").execute()
        return not waiting and not unacknowledged


def success_path(ours: Drain, theirs: Drain, rounds: int = 21, count: int = 3000) -> Pair:
    """Tasks a second, guarded and plain."""
    return _pair("success path", runs(ours, "works", count), runs(theirs, "works", count), rounds)


def success_path_late(ours: Drain, theirs: Drain, rounds: int = 9, count: int = 3000) -> Pair:
    """Tasks a second, guarded and plain with late acknowledgement, as guarded tasks have it."""
    a, b = runs(ours, "works", count), runs(theirs, "works_late", count)
    return _pair("success path, both acks late", a, b, rounds)


def failing_path(ours: Drain, theirs: Drain, rounds: int = 11, count: int = 400) -> Pair:
    """Attempts a second, three a task and no delay: guarded, and Celery's `autoretry_for`."""
    a, b = runs(ours, "retries", count, 3), runs(theirs, "retries", count, 3)
    return _pair("failing path", a, b, rounds)


def dying(ours: Drain, theirs: Drain, rounds: int = 7, count: int = 800) -> Pair:
    """Tasks a second that fail for good at once: dead-lettered, and in plain Celery only logged."""
    return _pair("failing for good at once", runs(ours, "fails", count), runs(theirs, "fails", count), rounds)


def runs(drain: Drain, name: str, count: int, attempts: int = 1) -> Callable[[], float]:
    """What measures a task by its name: attempts a second of so many tasks; the first of them are run to warm up."""
    task = drain.app.tasks[f"bench.{name}"]
    drain.rate(task, count // 4)
    return lambda: attempts * drain.rate(task, count)


def _pair(name: str, ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> Pair:
    return Pair(name, *alternate(rounds, ours, theirs))
