"""From deliveries to the archive: one batch, one transaction, then the acknowledgement.

Owns what each delivery means (a dead letter, a recovery, something unreadable, something too new) and that the archive
and the alert engine hear of it together. It must not know how deliveries are received.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from celery_guardrails.alerts.event import AlertEvent
from celery_guardrails.errors import StoreError
from celery_guardrails.guardian.set_aside import SetAsideLog
from celery_guardrails.letters.codec import NewerSchema, decode, unreadable
from celery_guardrails.letters.record import SELF_TEST
from celery_guardrails.letters.recovery import Recovery, decode_recovery
from celery_guardrails.letters.redaction import LetterRedaction
from celery_guardrails.store import alert
from celery_guardrails.store import letter as letters
from celery_guardrails.store.engine import Store
from celery_guardrails.store.letter import Archivable, Archived, Before, Outcome

__all__ = ["Ingest", "IngestReport", "Received"]

logger = logging.getLogger("celery_guardrails.guardian")


class Received(Protocol):
    """A delivery, as the transport hands it out."""

    @property
    def queue(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def content_type(self) -> str | None: ...
    @property
    def headers(self) -> Any: ...


D = TypeVar("D", bound=Received)


@dataclass(frozen=True)
class IngestReport(Generic[D]):
    """What became of a batch: `settled` is in the archive and can be acknowledged, `held` stays in the queue.

    `archived` counts new letters and further deaths, `recovered` the confirmed recoveries, `known` what had been
    seen before.
    """

    settled: list[D] = field(default_factory=list)
    held: list[D] = field(default_factory=list)
    archived: int = 0
    recovered: int = 0
    known: int = 0


def _events(fresh: Sequence[Archived], stood: dict[str, Before]) -> list[AlertEvent]:
    """What the alerts hear of: each death, and how its letter stood before, which is counted once."""
    events, stood = [], dict(stood)
    for one in sorted(fresh, key=lambda one: one.letter.generation):
        letter = one.letter
        if letter.task != SELF_TEST:
            events.append(AlertEvent.from_letter(letter, stood.get(one.id)))
        stood[one.id] = Before(letter.died_at, letter.failure.fingerprint, letter.reason.value, letter.may_have_run)
    return events


class Ingest:
    """Archives batches of deliveries, idempotently.

    Args:
        store: the archive, ready.
        recovered_queues: the queues on which recoveries are reported.
        environment: what unreadable messages are filed under.
        redaction: hides secrets in what people see of letters: an older worker may not have. `None`: by what
            secrets look like, and the usual names.
    """

    def __init__(
        self,
        store: Store,
        recovered_queues: Sequence[str],
        environment: str,
        redaction: LetterRedaction | None = None,
    ) -> None:
        self._store = store
        self._recovered = frozenset(recovered_queues)
        self._environment = environment
        self._set_aside = SetAsideLog()
        self._redacted = redaction or LetterRedaction()

    def run_once(self, deliveries: Sequence[D], now: datetime) -> IngestReport[D]:
        """Archive a batch in one transaction.

        A delivery that the archive refuses by itself is held back with an error, so that it cannot block others.

        Raises:
            StoreError: the archive cannot be written; nothing was archived and nothing may be acknowledged.
        """
        readable: list[tuple[D, Archivable | Recovery]] = []
        held: list[D] = []
        for delivery in deliveries:
            try:
                readable.append((delivery, self._read(delivery, now)))
            except NewerSchema as exc:
                logger.warning("left in %s: %s", delivery.queue, exc)
                held.append(delivery)
        try:
            return self._archive(readable, held, now)
        except StoreError:
            if len(readable) < 2 or not self._writable():
                raise
        except Exception:
            # a value that no column takes, say: one of them is to blame, and must not end the guardian
            logger.warning("a batch does not go into the archive, trying its letters one by one", exc_info=True)
        return self._one_by_one(readable, held, now)

    def probe(self) -> None:
        """See that the archive can be written.

        Raises:
            StoreError: it cannot.
        """
        with self._store.begin() as conn:
            letters.archive(conn, [], datetime.min)

    def _read(self, delivery: D, now: datetime) -> Archivable | Recovery:
        if delivery.queue in self._recovered:
            try:
                return decode_recovery(delivery.body)
            except ValueError as exc:
                return self._unreadable(delivery, f"not a recovery report: {exc}", now)
        try:
            return Archivable(*self._redacted(decode(delivery.body), delivery.body))
        except ValueError as exc:
            return self._unreadable(delivery, str(exc), now)

    def _unreadable(self, delivery: D, problem: str, now: datetime) -> Archivable:
        made = unreadable(
            delivery.body,
            problem,
            delivery.queue,
            now,
            environment=self._environment,
            content_type=delivery.content_type,
            headers=delivery.headers,
        )
        return Archivable.of(made)

    def _archive(
        self, readable: Sequence[tuple[D, Archivable | Recovery]], held: list[D], now: datetime
    ) -> IngestReport[D]:
        dead = [item for _, item in readable if isinstance(item, Archivable)]
        with self._store.begin() as conn:
            stood = letters.before(conn, [item.letter for item in dead])
            results = letters.archive(conn, dead, now) if dead else []
            fresh = [r for r in results if r.outcome in (Outcome.NEW, Outcome.REGRESSED)]
            alert.record(conn, _events(fresh, stood))
            reported = letters.recover(conn, [item for _, item in readable if isinstance(item, Recovery)], now)
        self._set_aside.log([*(one.set_aside for one in results), *(one.set_aside for one in reported)])
        recovered = sum(one.recovered for one in reported)
        settled = [delivery for delivery, _ in readable]
        return IngestReport(settled, list(held), len(fresh), recovered, len(readable) - len(fresh) - recovered)

    def _one_by_one(
        self, readable: Sequence[tuple[D, Archivable | Recovery]], held: list[D], now: datetime
    ) -> IngestReport[D]:
        settled: list[D] = []
        held = list(held)
        archived = recovered = known = refused = 0
        for delivery, item in readable:
            try:
                report = self._archive([(delivery, item)], [], now)
            except Exception as exc:
                if isinstance(exc, StoreError):
                    refused += 1
                    if refused == len(readable) or not self._writable():
                        raise  # then it is not the letters that are wrong
                logger.warning("left in %s, because the archive refuses it: %s", delivery.queue, exc)
                held.append(delivery)
                continue
            settled.append(delivery)
            archived, recovered, known = (
                archived + report.archived, recovered + report.recovered, known + report.known,
            )  # fmt: skip
        return IngestReport(settled, held, archived, recovered, known)

    def _writable(self) -> bool:
        """Whether the archive takes anything at all: else nothing is wrong with the batch."""
        try:
            self.probe()
        except StoreError:
            return False
        return True
