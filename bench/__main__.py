"""`make bench`: measure everything on a private Redis and RabbitMQ, and write `bench/results.md`."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import early, endtoend, ingest, keeping_up, once, publishing, tracer
from bench.figure import Pair, spread
from tests.rabbitmq import RabbitMQServer
from tests.servers import RedisServer

RESULTS = Path(__file__).parent / "results.md"
PACKAGES = ("celery", "kombu", "redis", "pydantic", "SQLAlchemy")


def main() -> int:
    """Measure, print and write."""
    rows = [_tracer_row(_said("success path in the tracer", tracer.measure))]
    server = RedisServer()
    server.start()
    try:
        with (
            endtoend.worker("guarded", server.fresh_url()) as ours,
            endtoend.worker("plain", server.fresh_url()) as theirs,
        ):
            for measure in (endtoend.success_path, endtoend.success_path_late, endtoend.failing_path, endtoend.dying):
                rows.append(_rate_row(_said(measure.__name__, measure, ours, theirs)))
        rows += [_rate_row(pair) for pair in early.measure(server)]
        print("idempotent tasks ...", flush=True)
        rows += [_rate_row(pair) for pair in once.measure(server)]
        rows += [_cost_row(cost) for cost in once.costs(server)]
        rows.append(_rate_row(_said("dead letters", publishing.dead_letters, server.fresh_url(), "Redis")))
        rows.append(_rate_row(_on_rabbitmq()))
        rows.append(_rate_row(_said("waiting retries", publishing.waiting_retries, server.fresh_url())))
        rows.append(_rate_row(_said("guardian ingest", ingest.measure, server.fresh_url())))
    finally:
        server.close()
    print("keeping up ...", flush=True)
    rows += [_rate_row(pair) for pair in keeping_up.everywhere()]
    text = _page(rows)
    RESULTS.write_text(text)
    print(text)
    return 0


def _on_rabbitmq() -> Pair:
    server = RabbitMQServer()
    server.start()
    try:
        return _said("dead letters on RabbitMQ", publishing.dead_letters, server.fresh_url(), "RabbitMQ")
    finally:
        server.close()


def _said(what: str, measure: Callable[..., Pair], *given: Any) -> Pair:
    print(f"{what.replace('_', ' ')} ...", end=" ", flush=True)
    pair = measure(*given)
    print(spread(pair.ratios(), 3), flush=True)
    return pair


BROKERS, ARCHIVES = ("Redis", "RabbitMQ"), ("SQLite", "PostgreSQL")
TARGETS = {
    "success path": "at least 2.00",
    "failing path": "at least 2.50",
    "idempotent tasks, and celery-once": "at least 1.00",
    "idempotent tasks, and celery-singleton": "at least 1.00",
    "dead-lettering on Redis": "at least 0.80",
    "dead-lettering on RabbitMQ": "at least 0.80",
    **{f"keeping up, {broker} to {store}": "at least 2.00" for broker in BROKERS for store in ARCHIVES},
}
UNITS = {
    "failing path": "attempts/s",
    "dead-lettering on Redis": "letters/s",
    "dead-lettering on RabbitMQ": "letters/s",
    "waiting retries on Redis": "retries/s",
    "guardian ingest": "letters/s",
    **{f"keeping up, {broker} to {store}": "letters/s" for broker in BROKERS for store in ARCHIVES},
}


LEGEND = (
    "- *Success path in the tracer*: one task in a worker's process, microseconds; less is better.",
    "- *Success path*: tasks of no work through Redis and a prefork worker with 2 processes. Plain tasks",
    "  acknowledge early there, as is Celery's default; guarded ones late.",
    "- *Early tasks*: acknowledged before they begin, and kept in the worker's journal: one sync of the disk",
    "  each. Plain ones are not kept; the second row's `plain` are guarded ones with the journal off.",
    "- *Idempotent tasks*: with a ledger on the broker's Redis. Those of celery-once and celery-singleton have",
    "  taken their lock when they were sent, which is not measured: their worker only frees it. The last of",
    "  these rows shows what the ledger costs a guarded task.",
    "- *A task's ledger*: how often it is asked for a task that succeeds, as the ledger's server counts.",
    "- *Failing path*: three attempts a task without delay; plain is Celery's `autoretry_for`. Guarded tasks",
    "  also publish a confirmed dead letter at the end.",
    "- *Failing for good at once*: guarded tasks are dead-lettered, confirmed; plain ones are only logged.",
    "- *Dead-lettering*: one process, a letter of 4 KB encoded and published; plain is a bare kombu",
    "  producer with confirms that sends the same bytes, ready made.",
    "- *Waiting retries*: a retry put where it waits outside the workers; plain is a bare kombu",
    "  publish to a queue.",
    "- *Guardian ingest*: dead letters from Redis into SQLite; plain is a kombu consumer that only",
    "  acknowledges.",
    "- *Keeping up*: what one guardian process archives, with all its services; `plain` is what one prefork",
    "  worker with 2 processes dead-letters at most. How much memory the guardian needs for 200,000 letters is",
    "  measured by `python -m bench.memory`.",
)
"""What the rows are."""


def _tracer_row(pair: Pair) -> str:
    difference = spread(pair.differences())
    return (
        f"| {pair.name} | {spread(pair.ours)} us | {spread(pair.theirs)} us | {spread(pair.ratios(), 3)}, "
        f"difference {difference} us | at most +1 us |"
    )


def _rate_row(pair: Pair) -> str:
    unit = UNITS.get(pair.name, "tasks/s")
    return (
        f"| {pair.name} | {spread(pair.ours, 0)} {unit} | {spread(pair.theirs, 0)} {unit} | "
        f"{spread(pair.ratios(), 3)} | {TARGETS.get(pair.name, '')} |"
    )


def _cost_row(cost: once.Cost) -> str:
    return f"| a task's ledger on {cost.name} | {cost.count:.2f} {cost.unit} |  |  | at most 2.00 |"


def _page(rows: list[str]) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = os.getloadavg()[0]
    return "\n".join(
        [
            "# Measurements",
            "",
            "Written by `make bench`. Ours and theirs run in turn within one run, on one machine, so look at the",
            "ratios: machines differ, and shared ones are noisy. Each figure is a median (smallest to largest).",
            "",
            f"{datetime.now(timezone.utc):%Y-%m-%d}, Python {platform.python_version()}, {packages}, "
            f"{os.cpu_count()} cores, load {load:.1f}.",
            "",
            "| what | guarded | plain | ratio | to reach |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "Plain is an application and a worker that have never heard of guardrails; while one worker is",
            "measured, the other is stopped.",
            "",
            *LEGEND,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
