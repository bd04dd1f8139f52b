"""`python -m tests.chaos.effect`: work that takes effect once, while children, workers, broker and database are killed.

Every order is sent twice. With the ledger in the database of the data, each has one row in the end, and no dead letter.
With a ledger on Redis alone, a row more is written where a process dies between its commit and its note in the ledger;
`--ledger redis` says how many. Owns the run, its faults by seed, and its result.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from celery_guardrails.store.engine import open_store
from tests.chaos.brokers import BROKERS, ChaosBroker
from tests.chaos.site import children
from tests.harness import Harness, Process
from tests.servers import RedisServer
from tests.servers_postgres import PostgreSQLServer
from tests.waiting import wait_until

__all__ = ["Effect", "main", "survive"]

APP = "tests.chaos.effect_app"
FAULTS = ("child", "child", "child", "worker", "worker", "broker", "database")
_WORKERS = 2
_BOUND = 300.0


@dataclass
class Effect:
    """What came of a run: rows by order, the faults that struck, and what is left in the dead-letter queue."""

    orders: int
    rows: Counter[int] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    dead: int = 0

    @property
    def missing(self) -> list[int]:
        """Orders without a row."""
        return [order for order in range(self.orders) if not self.rows[order]]

    @property
    def twice(self) -> list[int]:
        """Orders with several rows."""
        return [order for order, count in self.rows.items() if count > 1]


class _Run:
    """One run: its processes, and what is done to them."""

    def __init__(self, broker: ChaosBroker, database: PostgreSQLServer, folder: Path, ledger: str, seed: int) -> None:
        self._broker, self._database, self._rng = broker, database, random.Random(seed)
        self.url = database.fresh_url()
        archive = open_store(self.url).ready()
        archive.close()
        environment = {
            **broker.variables(),
            "EFFECT_DATABASE": self.url,
            "EFFECT_LEDGER": ledger,
            "CHAOS_SPOOL": str(folder / "spool"),
        }
        self.harness = Harness(folder, environment)
        self.engine = create_engine(self.url.replace("postgresql://", "postgresql+psycopg://"), pool_pre_ping=True)
        with self.engine.begin() as conn:
            conn.execute(text("CREATE TABLE paid (number serial PRIMARY KEY, order_id int, task_id text, fence int)"))
        self.workers: list[Process] = [self._start() for _ in range(_WORKERS)]

    def _start(self) -> Process:
        return self.harness.start(APP, "worker", "-c", "2", "-l", "info", "-n", f"w{self._rng.random()}@effect")

    def send(self, orders: int) -> None:
        """Send every order twice, as a front end that tries again does."""
        sender = self.harness.start_python("-m", APP, str(orders))
        wait_until(lambda: not sender.is_running, 120, "the orders to be sent")
        assert sender.returncode == 0, sender.log()

    def strike(self, fault: str) -> None:
        """Break something, and mend it."""
        if fault == "child":
            found = [pid for worker in self.workers if worker.is_running for pid in children(worker.pid)]
            if found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._rng.choice(found), signal.SIGKILL)
        elif fault == "worker":
            number = self._rng.randrange(len(self.workers))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.workers[number].pid, signal.SIGKILL)
            self.workers[number] = self._start()
        elif fault == "broker":
            self._broker.server.kill()
            time.sleep(self._rng.uniform(0.1, 1.0))
            self._broker.server.start()
        else:
            self._database.kill()
            time.sleep(self._rng.uniform(0.1, 1.0))
            self._database.start()

    def keep_running(self) -> None:
        """Start again a worker that has ended by itself."""
        self.workers = [worker if worker.is_running else self._start() for worker in self.workers]

    def count(self) -> Counter[int]:
        """Rows by order, as far as the database answers."""
        with self.engine.connect() as conn:
            rows = conn.execute(text("SELECT order_id, count(*) FROM paid GROUP BY order_id")).all()
        return Counter({row[0]: row[1] for row in rows})

    def waiting(self) -> int:
        """Messages that lie in the broker and are no letter."""
        return sum(count for name, count in self._broker.messages().items() if "dead" not in name)


def survive(
    broker: ChaosBroker, database: PostgreSQLServer, folder: Path, *, orders: int, faults: int, seed: int,
    ledger: str = "database",
) -> Effect:  # fmt: skip
    """Send orders, break things, and say what came of it.

    Args:
        broker, database: running servers of the run's own.
        folder: for spool and logs.
        orders: how many; each is sent twice.
        faults: how many things are broken.
        seed: of the faults.
        ledger: `database`, or the URL of a Redis.
    """
    run, rng, effect = _Run(broker, database, folder, ledger, seed), random.Random(seed), Effect(orders)
    try:
        run.send(orders)
        for _ in range(faults):
            time.sleep(rng.uniform(0.3, 1.5))
            fault = rng.choice(FAULTS)
            run.strike(fault)
            effect.struck[fault] += 1
            run.keep_running()
        until = time.monotonic() + _BOUND
        while time.monotonic() < until:
            run.keep_running()
            with contextlib.suppress(SQLAlchemyError):
                effect.rows = run.count()
            if not effect.missing and not run.waiting():
                break
            time.sleep(0.5)
        effect.rows = run.count()
        effect.dead = sum(count for name, count in broker.messages().items() if "dead" in name)
    finally:
        run.harness.close()
        run.engine.dispose()
    return effect


def main(argv: list[str]) -> int:
    """Run what is asked for; exit code 1 if an order was lost, or paid twice with the ledger in the database."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.effect", description="Break everything, pay once.")
    parser.add_argument("--broker", choices=[*BROKERS, "all"], default="all")
    parser.add_argument("--orders", type=int, default=2000, help="each is sent twice (default 2000)")
    parser.add_argument("--faults", type=int, default=60, help="how many things are broken (default 60)")
    parser.add_argument("--seed", type=int, help="of the faults (default: drawn)")
    parser.add_argument("--ledger", choices=["database", "redis"], default="database")
    options = parser.parse_args(argv)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    failed = False
    for name in BROKERS if options.broker == "all" else [options.broker]:
        kind, on = BROKERS[name]
        server, database, redis = kind(), PostgreSQLServer(), RedisServer()
        try:
            for each in (server, database, redis):
                each.start()
            ledger = redis.fresh_url() if options.ledger == "redis" else "database"
            with tempfile.TemporaryDirectory(prefix="effect-") as folder:
                effect = survive(
                    on(server), database, Path(folder), orders=options.orders, faults=options.faults, seed=seed,
                    ledger=ledger,
                )  # fmt: skip
        finally:
            for each in (server, database, redis):
                each.close()
        sys.stdout.write(
            f"{name}, ledger in {options.ledger}, seed {seed}: {options.orders} orders, {len(effect.missing)} lost, "
            f"{len(effect.twice)} paid twice, {effect.dead} dead letters, struck {dict(effect.struck)}\n"
        )
        sys.stdout.flush()
        failed = failed or bool(effect.missing or (effect.twice and ledger == "database"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
