"""`make bench`: measure everything on a private Redis and write `bench/results.md`."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from bench import endtoend, ingest, tracer
from bench.figure import Pair, spread
from tests.servers import RedisServer

RESULTS = Path(__file__).parent / "results.md"
PACKAGES = ("celery", "kombu", "redis", "pydantic", "SQLAlchemy")


def main() -> int:
    """Measure, print and write."""
    print("success path in the tracer ...", flush=True)
    rows = [_tracer_row(tracer.measure())]
    server = RedisServer()
    server.start()
    try:
        with endtoend.worker(server.fresh_url()) as drain:
            for measure in (endtoend.success_path, endtoend.success_path_late, endtoend.failing_path):
                print(f"{(measure.__doc__ or '').splitlines()[0]} ...", flush=True)
                pair = measure(drain)
                rows.append(_rate_row(pair, TARGETS[pair.name]))
        print("guardian ingest ...", flush=True)
        rows.append(_rate_row(ingest.measure(server.fresh_url()), ""))
    finally:
        server.close()
    text = _page(rows)
    RESULTS.write_text(text)
    print(text)
    return 0


TARGETS = {"success path": "at least 0.97", "success path, both acks late": "", "failing path": "at least 1.00"}


def _tracer_row(pair: Pair) -> str:
    difference = spread(pair.differences())
    return (
        f"| {pair.name} | {spread(pair.ours)} us | {spread(pair.theirs)} us | {spread(pair.ratios(), 3)}, "
        f"difference {difference} us | at most +1 us |"
    )


def _rate_row(pair: Pair, target: str) -> str:
    unit = "letters/s" if pair.name == "guardian ingest" else "attempts/s" if "failing" in pair.name else "tasks/s"
    return (
        f"| {pair.name} | {spread(pair.ours, 0)} {unit} | {spread(pair.theirs, 0)} {unit} | "
        f"{spread(pair.ratios(), 3)} | {target} |"
    )


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
            "- *Success path in the tracer*: one task in a worker's process, microseconds; less is better.",
            "- *Success path*: tasks of no work through Redis and a prefork worker with 2 processes. Plain tasks",
            "  acknowledge early there, as is Celery's default; guarded ones late.",
            "- *Failing path*: three attempts a task without delay; plain is Celery's `autoretry_for`. Guarded tasks",
            "  also publish a confirmed dead letter at the end.",
            "- *Guardian ingest*: dead letters from Redis into SQLite; plain is a kombu consumer that only",
            "  acknowledges.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
