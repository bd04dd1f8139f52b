"""Work that takes effect once: what the ledger costs a task, and how it compares with celery-once and celery-singleton.

`python -m bench.once` measures only this. A ledger's own server counts what it is asked: Redis the reads from its
clients, which are round trips, PostgreSQL the statements in its log. So all is counted that the worker sends there, the
renewals of leases and the looks whether a connection is alive, too.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import psycopg
import redis

from bench import rival
from bench.endtoend import runs, worker
from bench.figure import Pair, rotate, spread
from tests.servers import RedisServer
from tests.servers_postgres import PostgreSQLServer

__all__ = ["Cost", "costs", "measure"]

_STATEMENT = re.compile(rb"LOG:  (?:statement|execute [^:]*): ")


@dataclass(frozen=True)
class Cost:
    """What one task that succeeds asks a ledger.

    Args:
        name: which ledger.
        count: how often it is asked, on average.
        unit: of the count.
    """

    name: str
    count: float
    unit: str


def costs(broker: RedisServer, count: int = 1000) -> list[Cost]:
    """What a ledger on a Redis, and one on a PostgreSQL, is asked; each server has nothing else to do."""
    return [_on_redis(broker.fresh_url(), count), _on_postgresql(broker.fresh_url(), count)]


def measure(server: RedisServer, rounds: int = 9, count: int = 1500) -> list[Pair]:
    """Tasks a second of idempotent tasks, with a ledger on the broker's Redis: beside others', and beside none."""
    url, theirs_url = server.fresh_url(), server.fresh_url()
    rival.use(theirs_url)
    with worker("guarded", url, GUARDED_LEDGER=url) as ours, worker("rival", theirs_url) as theirs:
        others = {
            "idempotent tasks, and celery-once": runs(theirs, "celery_once", count),
            "idempotent tasks, and celery-singleton": runs(theirs, "celery_singleton", count),
            "idempotent tasks, and guarded ones without a key": runs(ours, "works", count),
        }
        once, *figures = rotate(rounds, runs(ours, "works_once", count), *others.values())
        return [Pair(name, once, each) for name, each in zip(others, figures, strict=True)]


def _on_redis(broker: str, count: int) -> Cost:
    server = RedisServer()
    server.start()
    try:
        client = redis.Redis.from_url(server.url)

        def reads() -> int:
            return int(client.info("stats")["total_reads_processed"])

        # the second question is a read, too
        return Cost("Redis", (_asked(broker, server.fresh_url(), reads, count) - 1) / count, "round trips")
    finally:
        server.close()


def _on_postgresql(broker: str, count: int) -> Cost:
    server = PostgreSQLServer()
    server.start()
    try:
        url = server.migrated_url()
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute(f"ALTER DATABASE {urlsplit(url).path[1:]} SET log_statement = 'all'")

        def statements() -> int:
            return len(_STATEMENT.findall(server.log.read_bytes()))

        return Cost("PostgreSQL", _asked(broker, url, statements, count) / count, "statements")
    finally:
        server.close()


def _asked(broker: str, ledger: str, asked: Callable[[], int], count: int) -> int:
    """How often so many tasks ask the ledger. The first tasks, which connect, are not counted."""
    with worker("guarded", broker, GUARDED_LEDGER=ledger) as drain:
        run = runs(drain, "works_once", count)
        before = asked()
        run()
        return asked() - before


def main() -> int:
    """Measure and print."""
    server = RedisServer()
    server.start()
    try:
        for cost in costs(server):
            print(f"a task's ledger on {cost.name}: {cost.count:.3f} {cost.unit}", flush=True)
        for pair in measure(server):
            print(f"{pair.name}: {spread(pair.ours, 0)} and {spread(pair.theirs, 0)} tasks/s, ", end="")
            print(f"ratio {spread(pair.ratios(), 3)}")
        print(f"load {os.getloadavg()[0]:.1f}")
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
