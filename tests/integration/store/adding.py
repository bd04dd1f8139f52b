"""A process that adds summaries to an archive: `python adding.py URL FIRST NUMBER`, once it reads a line.

Summary `n` has the id `n`, so that two processes whose numbers overlap bring some summaries twice.
"""

from __future__ import annotations

import sys

from celery_guardrails import clock
from celery_guardrails.figures.summary import Summary, TaskFigures
from celery_guardrails.store.engine import open_store
from celery_guardrails.store.figure import count

TASKS = [f"shop.task{number}" for number in range(10)]
BATCH = 5


def main(url: str, first: int, number: int) -> None:
    """Add the summaries in batches, each in its own transaction."""
    store = open_store(url)
    with store.read():
        pass
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    at = clock.now()
    for start in range(first, first + number, BATCH):
        batch = [summary(each, at.timestamp()) for each in range(start, min(start + BATCH, first + number))]
        with store.begin() as conn:
            count(conn, batch, at)
    store.close()


def summary(number: int, ended: float) -> Summary:
    """One attempt of each task."""
    tasks = {task: TaskFigures(outcomes={"succeeded": 1}) for task in TASKS[:: 1 if number % 2 else -1]}
    return Summary(str(number), "production", "w@host", 1, ended - 10, ended, tasks)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
