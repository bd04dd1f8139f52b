"""What a child process does to a spool until it is killed: `python spooling.py put|ship FOLDER [BROKER QUEUE]`.

It prints a line for each thing that is done, flushed, so that the test knows what had been promised.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

from celery import Celery

from celery_guardrails.errors import SpoolError
from celery_guardrails.transport.publisher import Envelope, Publisher
from celery_guardrails.transport.shipping import Shipper
from celery_guardrails.transport.spool import Spool
from celery_guardrails.transport.spooled import Spooled
from celery_guardrails.transport.waiting.eta import EtaWaiting

LIMIT = 1 << 30


def entry(body: bytes, queue: str = "t.spool", due_at: datetime | None = None) -> Spooled:
    """An entry for a queue; its body says which."""
    now = datetime.now(timezone.utc)
    return Spooled(Envelope(body, queue, headers={"id": body[:20].decode()}), (), due_at, f"test {body[:20]!r}", now)


def put(folder: Path) -> None:
    """Write entries of 1 byte to 300 KB until killed."""
    spool = Spool(folder, LIMIT)
    for number in range(1_000_000):
        try:
            path = spool.put(entry(b"%08d" % number + b"x" * (number * 7919 % 300_000)))
        except SpoolError as exc:
            print("refused", exc, flush=True)  # noqa: T201
            return
        print(path.name, flush=True)  # noqa: T201


def _doubt(spooled: Spooled, why: str, now: datetime) -> None:
    raise AssertionError(f"{spooled.what}: {why}")


def ship(folder: Path, broker: str) -> None:
    """Ship until nothing is left."""
    app = Celery("spooling", broker=broker, set_as_current=False)
    publisher = Publisher(app, timedelta(seconds=20))
    shipper = Shipper(Spool(folder, LIMIT), publisher, EtaWaiting(publisher), lambda _: [], _doubt)
    while shipped := shipper.ship(datetime.now(timezone.utc), most=7).count:
        print(shipped, flush=True)  # noqa: T201
    publisher.close()


if __name__ == "__main__":
    if sys.argv[1] == "put":
        put(Path(sys.argv[2]))
    else:
        ship(Path(sys.argv[2]), sys.argv[3])
