"""The guardian's loop: receive, archive, acknowledge; between batches run the services that are due.

Owns the order of these steps, and what happens while the broker or the archive is away: the guardian acknowledges only
what is archived, tries again until both answer, and runs its services meanwhile. It keeps a batch that the archive does
not take, because some queues drop a message that was given back too often. `ingest.py` owns what a batch means,
`service.py` the services.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from celery_guardrails import clock
from celery_guardrails.errors import StoreError
from celery_guardrails.guardian.health import Health
from celery_guardrails.guardian.ingest import Ingest, IngestReport
from celery_guardrails.service import Runner, Service
from celery_guardrails.text import count_of
from celery_guardrails.transport.consumer import ConsumerLost, ConsumerRefused, DeadLetterConsumer, Delivery

__all__ = ["Guardian", "OnceReport"]

logger = logging.getLogger("celery_guardrails.guardian")

BATCH = 100
"""Letters in one transaction: enough to make commits cheap, few enough that one takes milliseconds."""
_IDLE, _LEAST_IDLE = 1.0, 0.05
_ONCE_IDLE = 1.5
_STRAGGLERS = 3.0
"""Seconds for which `--once` goes on after it received as many as waited at its start: more may come without end."""
_SLOW = 10.0
"""Seconds that `--once` waits for messages that the broker has but does not send: another guardian may have them."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_ITSELF = "this guardian"


@dataclass(frozen=True)
class OnceReport:
    """What `guardian --once` did. `held` messages stay in their queue; the log says why."""

    archived: int
    recovered: int
    known: int
    held: int


class Guardian:
    """Archives dead letters and runs its services until it is stopped.

    Args:
        consumer: where deliveries come from.
        ingest: what archives them.
        services: the guardian's other work; each says how often it runs.
        now: the clock.
        health: gets what the loop knows about itself. `None`: one of its own.

    Attributes:
        troubles: how often the broker or the archive was away so far.
    """

    def __init__(
        self,
        consumer: DeadLetterConsumer,
        ingest: Ingest,
        services: Sequence[Service] = (),
        now: Callable[[], datetime] = clock.now,
        health: Health | None = None,
    ) -> None:
        self._consumer = consumer
        self._ingest = ingest
        self._runner = Runner(services, logger)
        self._now = now
        self._in_hand: list[Delivery] = []
        self._archive_away = False
        self._away: set[str] = set()
        self._again_at = 0.0
        self._pause = _FIRST_PAUSE
        self._health = health or Health()
        self.troubles = 0

    @property
    def away(self) -> frozenset[str]:
        """What does not answer at present, in words: the broker, the archive."""
        return frozenset(self._away)

    def add(self, service: Service) -> None:
        """Run one more service, after the others."""
        self._runner.add(service)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; a batch under way is finished first."""
        try:
            while not stop.is_set():
                self._step(stop)
                self._runner.serve(self._now)
        finally:
            self._in_hand = []
            self._consumer.close()

    def run_once(self, progress: Callable[[int], None] = lambda _: None) -> OnceReport:
        """Archive what is waiting now, run every service once, and return, even if more arrives all the time.

        Args:
            progress: called after each batch with the number of its deliveries.

        Raises:
            ConsumerLost: the broker cannot be reached.
            StoreError: the archive cannot be written; what was not archived stays in the queue.
        """
        totals = [0, 0, 0, 0]
        try:
            for batch in self._waiting_now():
                report = self._settle(batch)
                counts = (report.archived, report.recovered, report.known, len(report.held))
                totals = [total + count for total, count in zip(totals, counts, strict=True)]
                progress(len(batch))
            for service in self._runner.services:
                service.run_once(self._now(), flush=True)
        finally:
            self._consumer.close()
        return OnceReport(*totals)

    def _waiting_now(self) -> Iterator[list[Delivery]]:
        """The waiting messages in batches: until none comes, or `_STRAGGLERS` after as many came as waited at first."""
        left, until, patience = self._consumer.waiting(), math.inf, time.monotonic() + _SLOW
        while time.monotonic() < until:
            batch = self._consumer.receive(BATCH, _ONCE_IDLE)
            if not batch:
                if left > 0 and time.monotonic() < patience:
                    continue  # the broker still has messages: it is slow
                break
            yield batch
            left, patience = left - len(batch), time.monotonic() + _SLOW
            if left <= 0:
                until = min(until, time.monotonic() + _STRAGGLERS)
        # the broker has delivered these already: else they would only be given back
        self._consumer.finish()
        while batch := self._consumer.receive(BATCH, 0):
            yield batch

    def _step(self, stop: threading.Event) -> None:
        """Receive and archive a batch; while the broker or the archive is away, wait for a service to be due."""
        try:
            rest = self._again_at - time.monotonic()
            if rest > 0:
                self._wait(stop, min(rest, self._idle()))
                return
            self._batch()
        except ConsumerLost as exc:
            self._in_hand = []  # the broker delivers it again
            what = "refuses this guardian" if isinstance(exc, ConsumerRefused) else "is away"
            self._back_off("the broker", f"the broker {what}: {exc}")
        except StoreError as exc:
            self._archive_away = True
            self._back_off("the archive", f"{exc}; dead letters stay unacknowledged")
        except Exception as exc:
            # no message may end the guardian: it gives back what it took, and goes on with the rest
            self._in_hand = []
            self._consumer.close()
            if _ITSELF not in self._away:
                logger.exception("a defect of celery-guardrails, please report it")
            self._back_off(_ITSELF, f"receiving failed, {type(exc).__name__}: {exc}")
        else:
            self._pause = _FIRST_PAUSE
            self._health.turn()
            if self._away:
                logger.warning("%s answers again", " and ".join(sorted(self._away)))
                self._away.clear()

    def _batch(self) -> None:
        if not self._in_hand:
            if self._archive_away:
                self._ingest.probe()  # before it takes messages that it may have to give back
            self._in_hand = self._consumer.receive(BATCH, self._idle())
        if self._in_hand:
            self._settle(self._in_hand)
        self._in_hand, self._archive_away = [], False

    def _back_off(self, what: str, words: str) -> None:
        """Wait before the next try, longer each time. Log the trouble once, until `what` answers again."""
        self.troubles += 1
        self._health.trouble(what, words)
        self._again_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        if what not in self._away:
            logger.warning("%s; the guardian tries again until it answers", words.rstrip("."))
        self._away.add(what)

    def _wait(self, stop: threading.Event, seconds: float) -> None:
        if self._in_hand:
            self._consumer.linger(seconds)
        else:
            stop.wait(seconds)

    def _settle(self, batch: Sequence[Delivery]) -> IngestReport[Delivery]:
        report = self._ingest.run_once(batch, self._now())
        self._consumer.settle(report.settled)
        self._consumer.hold(report.held)
        if report.archived or report.recovered or report.held:
            logger.info(_summary(report))
        return report

    def _idle(self) -> float:
        """Seconds to wait for a delivery: until the next service is due, at most a second."""
        return self._runner.idle(self._now(), _LEAST_IDLE, _IDLE)


def _summary(report: IngestReport[Delivery]) -> str:
    """What became of a batch, as the log says it: `archived 3 dead letters, 1 message left in the queue`."""
    counts = (
        (report.archived, "archived {}", "dead letter", None),
        (report.recovered, "confirmed {}", "recovery", "recoveries"),
        (report.known, "{} already known", "message", None),
        (len(report.held), "{} left in the queue", "message", None),
    )
    return ", ".join(words.format(count_of(number, one, more)) for number, words, one, more in counts if number)
