"""A process that writes a journal until it is killed: says the id of each message once it is kept."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path

from celery_guardrails.transport.journal.entry import Taken
from celery_guardrails.transport.journal.journal import Journal

__all__ = ["taken"]


def taken(task_id: str, size: int = 100) -> Taken:
    """A message with a body of that size."""
    headers = {"id": task_id, "task": "shop.mail"}
    return Taken(b"x" * size, headers, {}, {}, "application/json", "utf-8", "w1@host", "1", datetime.now(timezone.utc))


def say(line: str) -> None:
    """Hand a line to whoever reads this process."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(folder: str) -> None:
    """Keep, and every other time be done with it."""
    journal = Journal(Path(folder), 1 << 30, "shop")
    for number in range(1_000_000):
        say(f"begin {number}")
        slot = journal.keep(taken(str(number), 100 + 37_000 * (number % 3)))
        say(f"kept {number}")
        if number % 2:
            say(f"end {number}")
            slot.done()


if __name__ == "__main__":
    main(sys.argv[1])
