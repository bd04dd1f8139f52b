"""A spool beside a broker, and what the tests of shipping and of the way out do with the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kombu import Queue

from celery_guardrails.transport.dead_letter import declared_queue
from celery_guardrails.transport.publisher import Envelope, Publisher
from celery_guardrails.transport.shipping import Shipper
from celery_guardrails.transport.spool import Spool
from celery_guardrails.transport.spooled import Spooled
from celery_guardrails.transport.waiting.eta import EtaWaiting
from tests.integration.transport.spooling import LIMIT, entry

if TYPE_CHECKING:
    from tests.integration.transport.conftest import Line

QUEUE = "t.spool"
DECLARED = declared_queue(QUEUE)
NOW = datetime.now(timezone.utc)


class Remembering(EtaWaiting):
    """Remembers the delays with which it was asked to publish."""

    def __init__(self, publisher: Publisher) -> None:
        super().__init__(publisher)
        self.delays: list[float] = []

    def publish(self, envelope: Envelope, declare: Sequence[Queue], delay: float) -> None:
        self.delays.append(delay)
        super().publish(envelope, declare, delay)


class Dock:
    """A spool, and what ships it to a broker."""

    def __init__(self, line: Line, folder: Path) -> None:
        self.line = line
        self.spool = Spool(folder / "spool", LIMIT)
        self.waiting = Remembering(line.publisher)
        self.shipper = self.another()
        self.declared: dict[str, Queue] = {QUEUE: DECLARED}
        self.doubted: list[bytes] = []

    def another(self) -> Shipper:
        """Another shipper of the same spool."""
        return Shipper(self.spool, self.line.publisher, self.waiting, self._queues, self._doubt)

    def _queues(self, spooled: Spooled) -> list[Queue]:
        name = spooled.envelope.routing_key
        return [self.declared[name]] if name in self.declared else []

    def _doubt(self, spooled: Spooled, why: str, now: datetime) -> None:
        self.doubted.append(spooled.envelope.body)

    def fill(self, count: int, queue: str = QUEUE) -> set[bytes]:
        """Spool so many entries, and return their bodies."""
        bodies = {b"%s %04d" % (queue.encode(), number) for number in range(count)}
        for body in sorted(bodies):
            self.spool.put(entry(body, queue))
        return bodies


def publish_counter(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count what a publisher is asked to publish."""
    asked: list[str] = []
    publish: Callable[..., None] = publisher.publish

    def counting(envelope: Envelope, declare: Sequence[Queue] = ()) -> None:
        asked.append(envelope.routing_key)
        publish(envelope, declare)

    monkeypatch.setattr(publisher, "publish", counting)
    return asked
