"""Whether one guardian keeps up: how many dead letters a second a prefork worker with two processes makes, and how many
of them a guardian archives. Both are real processes, in turn.

The letters are those that the worker has made of failing tasks. It is stopped (SIGSTOP) while a guardian archives.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from kombu import Connection

from bench import guarded
from bench.figure import Pair, spread
from celery_guardrails.store import letter
from celery_guardrails.store.engine import Store, open_store
from celery_guardrails.transport.depth import depth
from tests.rabbitmq import RabbitMQServer
from tests.servers import RedisServer
from tests.servers_postgres import PostgreSQLServer

__all__ = ["Process", "everywhere", "guardian", "letters_in", "measure", "run"]

QUEUE = guarded.QUEUE
_DEADLINE = 300.0
_POLL = 0.05
"""Seconds; what is measured takes some seconds."""


class Process:
    """One process of the application.

    Args:
        process: it.
        log: what it says.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def resident(self) -> float:
        """Its resident memory in MiB, as the kernel says."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024

    def until(self, done: Callable[[], bool]) -> float:
        """Wait until something is done; returns the seconds."""
        started = time.perf_counter()
        while not done():
            if self._process.poll() is not None or time.perf_counter() - started > _DEADLINE:
                raise RuntimeError(f"it did not get done:\n{self._log.read_text(errors='replace')[-3000:]}")
            time.sleep(_POLL)
        return time.perf_counter() - started

    def wait_for_log(self, words: str) -> None:
        """Wait until it has said something."""
        self.until(lambda: words in self._log.read_text(errors="replace"))

    def stop(self) -> None:
        """Let it do nothing for a while."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it work again."""
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def run(*arguments: str, ready: str, **environ: str) -> Iterator[Process]:
    """Start `celery -A bench.guarded ARGUMENTS`, and wait until it says `ready`. It ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "bench.guarded", *arguments],
                env={**os.environ, **environ}, stdout=out, stderr=out,
            )  # fmt: skip
        try:
            made = Process(process, log)
            made.wait_for_log(ready)
            yield made
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(60)


def guardian(broker: str, store: str) -> AbstractContextManager[Process]:
    """A guardian with this broker and archive, running."""
    return run("guardian", ready="guardian started", GUARDED_URL=broker, GUARDRAILS_STORE_URL=store)


def everywhere(rounds: int = 5, count: int = 2000) -> Iterator[Pair]:
    """With letters from Redis and from RabbitMQ, into SQLite and into PostgreSQL; see `measure`."""
    database = PostgreSQLServer()
    database.start()
    try:
        for kind in (RedisServer, RabbitMQServer):
            server = kind()
            server.start()
            try:
                with tempfile.TemporaryDirectory() as folder:
                    for name, store in (
                        ("SQLite", f"sqlite:///{Path(folder) / 'archive.sqlite3'}"),
                        ("PostgreSQL", database.fresh_url()),
                    ):
                        broker = "Redis" if kind is RedisServer else "RabbitMQ"
                        yield measure(f"{broker} to {name}", server.fresh_url(), store, rounds, count)
            finally:
                server.close()
    finally:
        database.close()


def measure(name: str, broker: str, store: str, rounds: int = 5, count: int = 2000) -> Pair:
    """Letters a second: archived by one guardian, and made by one worker with two processes.

    Args:
        name: of the broker and the archive.
        broker: the broker's URL.
        store: the archive's URL.
        rounds: how often. Default 5.
        count: letters a round. Default 2000.
    """
    options = ("-c", "2", "-l", "warning", "--without-gossip", "--without-mingle", "-n", "keeping@bench")
    archived, made = [], []
    archive = open_store(store).ready()
    with (
        Connection(broker) as connection,
        run("worker", *options, ready="", GUARDED_URL=broker) as worker,
    ):
        worker.stop()
        for number in range(rounds + 1):
            _publish(broker, count)
            worker.go_on()
            dying = worker.until(lambda: (depth(connection, QUEUE) or 0) >= count)
            worker.stop()
            keeping = _archive(broker, archive, count)
            if number:  # the first round warms up
                made.append(count / dying)
                archived.append(keeping)
    archive.close()
    return Pair(f"keeping up, {name}", archived, made)


def letters_in(archive: Store) -> int:
    """How many letters are in an archive."""
    with archive.read() as conn:
        return letter.count(conn)


def _archive(broker: str, archive: Store, count: int) -> float:
    """Letters a second of a guardian that starts now, from the first batch that it has archived to the last one."""
    before = letters_in(archive)
    url = archive.engine.url.render_as_string(hide_password=False)
    with guardian(broker, url) as process:
        process.until(lambda: letters_in(archive) > before)
        first = letters_in(archive) - before
        seconds = process.until(lambda: letters_in(archive) == before + count)
    return (count - first) / seconds


def _publish(broker: str, count: int) -> None:
    with guarded.app.connection_for_write(broker) as connection:
        producer = guarded.app.amqp.Producer(connection)
        for _ in range(count):
            guarded.fails.apply_async((1, 2), producer=producer)


def main() -> int:
    """`python -m bench.keeping_up [ROUNDS [LETTERS]]`: measure and print."""
    for pair in everywhere(*map(int, sys.argv[1:3])):
        print(f"{pair.name}: {spread(pair.ours, 0)} archived and {spread(pair.theirs, 0)} made a second, ", end="")
        print(f"ratio {spread(pair.ratios())}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
