"""Real workers on Redis: how many tasks, or attempts, a second a prefork worker with two processes gets through.

The worker is stopped (SIGSTOP) while the queue is filled, then let go; the clock runs until queue and unacknowledged
messages are gone. Each pair is measured in the same worker, one after the other, in turn.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from bench.figure import Pair, alternate

__all__ = ["failing_path", "success_path", "worker"]

_DEADLINE = 120.0


@contextmanager
def worker(url: str) -> Iterator[Drain]:
    """A prefork worker with two processes on this broker."""
    command = [sys.executable, "-m", "celery", "-A", "bench.tasks", "worker", "-c", "2", "-l", "warning",
               "--without-gossip", "--without-mingle"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "worker.log"
        with log.open("wb") as out:
            process = subprocess.Popen(command, env={**os.environ, "BROKER_URL": url}, stdout=out, stderr=out)
        try:
            drain = Drain(url, process)
            drain.wait_until_ready()
            yield drain
        except BaseException:
            sys.stderr.write(log.read_text(errors="replace")[-3000:])
            raise
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(30)


class Drain:
    """Fills the queue of a stopped worker and times how long it takes to empty it."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        os.environ["BROKER_URL"] = url
        from bench import tasks  # it reads the environment when it is imported

        tasks.app.conf.broker_url = url
        self.tasks = tasks
        self._process = process
        self._redis = redis.Redis.from_url(url)

    def wait_until_ready(self) -> None:
        """Return when the worker has run a task."""
        self.tasks.plain.delay(1, 2)
        self._wait_until_empty()

    def rate(self, task: Any, count: int) -> float:
        """Tasks a second."""
        self._process.send_signal(signal.SIGSTOP)
        with self.tasks.app.producer_pool.acquire(block=True) as producer:
            for _ in range(count):
                task.apply_async((1, 2), producer=producer)
        self._process.send_signal(signal.SIGCONT)
        started = time.perf_counter()
        self._wait_until_empty()
        seconds = time.perf_counter() - started
        self._redis.delete("bench.dead")
        return count / seconds

    def _wait_until_empty(self) -> None:
        until = time.monotonic() + _DEADLINE
        while time.monotonic() < until:
            if not self._redis.llen("celery") and not self._redis.hlen("unacked"):
                # a retry is published before its attempt is acknowledged: empty twice is empty
                time.sleep(0.002)
                if not self._redis.llen("celery") and not self._redis.hlen("unacked"):
                    return
            time.sleep(0.002)
        raise RuntimeError(f"the worker did not empty its queue in {_DEADLINE:.0f} s")


def success_path(drain: Drain, rounds: int = 21, count: int = 3000) -> Pair:
    """Tasks a second, guarded and plain."""
    return _pair("success path", drain, drain.tasks.guarded, drain.tasks.plain, rounds, count, 1)


def success_path_late(drain: Drain, rounds: int = 9, count: int = 3000) -> Pair:
    """Tasks a second, guarded and plain with late acknowledgement, as guarded tasks have it."""
    return _pair("success path, both acks late", drain, drain.tasks.guarded, drain.tasks.plain_late, rounds, count, 1)


def failing_path(drain: Drain, rounds: int = 9, count: int = 400) -> Pair:
    """Attempts a second, three a task and no delay: guarded, and Celery's `autoretry_for`."""
    ours, theirs = drain.tasks.guarded_failing, drain.tasks.autoretry
    return _pair("failing path", drain, ours, theirs, rounds, count, 3)


def _pair(name: str, drain: Drain, ours: Any, theirs: Any, rounds: int, count: int, attempts: int) -> Pair:
    for task in (ours, theirs):
        drain.rate(task, count // 4)
    a, b = alternate(rounds, lambda: attempts * drain.rate(ours, count), lambda: attempts * drain.rate(theirs, count))
    return Pair(name, a, b)
