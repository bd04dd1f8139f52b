"""The guardian's loop: receive, archive, acknowledge; between batches run the services that are due.

Owns the order of things and what happens when the broker or the archive is away: nothing is acknowledged that is not
archived, everything is tried again by itself. What a batch means is in `ingest.py`, the services in `service.py`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from celery_guardrails import clock
from celery_guardrails.errors import StoreError
from celery_guardrails.guardian.ingest import Ingest, IngestReport
from celery_guardrails.guardian.service import Service
from celery_guardrails.transport.consumer import ConsumerLost, DeadLetterConsumer, Delivery

__all__ = ["Guardian", "OnceReport"]

logger = logging.getLogger("celery_guardrails.guardian")

BATCH = 100
"""Letters in one transaction: enough to make commits cheap, few enough that one takes milliseconds."""
_IDLE = 1.0
_ONCE_IDLE = 1.5
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


@dataclass(frozen=True)
class OnceReport:
    """What `guardian --once` did. `held` were left in their queue with an error."""

    archived: int
    recovered: int
    known: int
    held: int


class Guardian:
    """Archives dead letters, and runs its services, until told to stop.

    Args:
        consumer: where deliveries come from.
        ingest: what archives them.
        services: what else is to be done, each as often as it says.
        now: the clock.

    Attributes:
        troubles: how often the broker or the archive was away so far.
    """

    def __init__(
        self,
        consumer: DeadLetterConsumer,
        ingest: Ingest,
        services: Sequence[Service] = (),
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._consumer = consumer
        self._ingest = ingest
        self._services = list(services)
        self._now = now
        self._due: dict[str, datetime] = {}
        self._pause = _FIRST_PAUSE
        self.troubles = 0

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; a batch under way is finished first."""
        try:
            while not stop.is_set():
                if not self._batch():
                    self.troubles += 1
                    stop.wait(self._pause)
                    self._pause = min(2 * self._pause, _LONGEST_PAUSE)
                self._serve(self._now())
        finally:
            self._consumer.close()

    def run_once(self, progress: Callable[[int], None] = lambda _: None) -> OnceReport:
        """Archive what is waiting now, run every service once, and return.

        Args:
            progress: called with the number of deliveries dealt with, after each batch.

        Raises:
            ConsumerLost: the broker cannot be reached.
            StoreError: the archive cannot be written; what was not archived stays in the queue.
        """
        totals = [0, 0, 0, 0]
        try:
            while batch := self._consumer.receive(BATCH, _ONCE_IDLE):
                report = self._settle(batch)
                counts = (report.archived, report.recovered, report.known, len(report.held))
                totals = [total + count for total, count in zip(totals, counts, strict=True)]
                progress(len(batch))
            for service in self._services:
                service.run_once(self._now(), flush=True)
        finally:
            self._consumer.close()
        return OnceReport(*totals)

    def _batch(self) -> bool:
        """Receive and archive one batch; `False` when the broker or the archive is away."""
        try:
            batch = self._consumer.receive(BATCH, self._idle())
            if batch:
                self._settle(batch)
        except ConsumerLost as exc:
            logger.warning("the broker is away, trying again in %.0f s: %s", self._pause, exc)
            return False
        except StoreError as exc:
            # Closing gives the unacknowledged letters back to the queue, where they are safe.
            self._consumer.close()
            logger.warning("%s; dead letters stay in their queue, trying again in %.0f s", exc, self._pause)
            return False
        self._pause = _FIRST_PAUSE
        return True

    def _settle(self, batch: Sequence[Delivery]) -> IngestReport[Delivery]:
        report = self._ingest.run_once(batch, self._now())
        self._consumer.settle(report.settled)
        self._consumer.hold(report.held)
        if report.archived or report.recovered or report.held:
            logger.info(
                "archived %d, recovered %d, known %d, held %d",
                report.archived, report.recovered, report.known, len(report.held),
            )  # fmt: skip
        return report

    def _serve(self, now: datetime) -> None:
        for service in self._services:
            if self._due.get(service.name, now) <= now:
                self._due[service.name] = now + service.every
                try:
                    service.run_once(now, flush=False)
                except StoreError as exc:
                    logger.warning("%s could not run: %s", service.name, exc)
                except Exception:
                    logger.warning("%s failed", service.name, exc_info=True)

    def _idle(self) -> float:
        """Seconds to wait for a delivery: until the next service is due, at most a second."""
        if not self._due:
            return 0.05
        left = min(self._due.values()) - self._now()
        return min(_IDLE, max(0.05, left / timedelta(seconds=1)))
