"""From deliveries to the archive: one batch, one transaction, then the acknowledgement.

Owns what each delivery means (a dead letter, a recovery, something unreadable, something too new), and that the archive
and the alert engine get it in the same transaction. It must not know how deliveries are received.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from celery_guardrails.alerts.complaint import Complaints
from celery_guardrails.alerts.event import AlertEvent
from celery_guardrails.guardian.set_aside import SetAsideLog
from celery_guardrails.letters.codec import Named, NewerSchema, decode, named_in, unreadable
from celery_guardrails.letters.record import SELF_TEST
from celery_guardrails.letters.recovery import Recovery, decode_recovery
from celery_guardrails.letters.redaction import LetterRedaction
from celery_guardrails.store import alert, reconcile, tally
from celery_guardrails.store import letter as letters
from celery_guardrails.store.engine import Store
from celery_guardrails.store.letter import Archivable, Archived, Before, Outcome
from celery_guardrails.store.probe import probe, raise_if_away
from celery_guardrails.text import cut, one_line

__all__ = ["Ingest", "IngestReport", "Received"]

logger = logging.getLogger("celery_guardrails.guardian")

_LONGEST_WORDS = 300


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

    `archived` counts new letters and further deaths, `recovered` the confirmed recoveries, `known` the deliveries that
    brought nothing new.
    """

    settled: list[D] = field(default_factory=list)
    held: list[D] = field(default_factory=list)
    archived: int = 0
    recovered: int = 0
    known: int = 0


def _events(fresh: Sequence[Archived], stood: dict[str, Before], now: datetime) -> list[AlertEvent]:
    """Events for the alert engine: each death, and how its letter stood before, so that a letter is counted once."""
    events, stood = [], dict(stood)
    for one in sorted(fresh, key=lambda one: one.letter.generation):
        event = AlertEvent.from_letter(one.letter, stood.get(one.id), now)
        if one.letter.task != SELF_TEST:
            events.append(event)
        stood[one.id] = Before(event.at, event.fingerprint, event.reason, event.may_have_run)
    return events


@dataclass(frozen=True)
class _Item(Generic[D]):
    """A delivery and what it means.

    `is_last`: it is the simplest form already, a letter with the raw bytes. `stands_for` is then what the letter that
    the worker published calls itself, where that can be read.
    """

    delivery: D
    what: Archivable | Recovery
    is_last: bool = False
    stands_for: Named | None = None


class Ingest:
    """Archives batches of deliveries, idempotently. A delivery that fails keeps no other delivery waiting:

        readable, archived
          └─ unreadable, or refused by an archive that takes others ──> a letter with its raw bytes, `undecodable`
               └─ the archive refuses this letter, too ──> held: unacknowledged until this guardian ends

    Args:
        store: the archive, ready.
        recovered_queues: the queues on which recoveries are reported.
        environment: the environment of the letters of unreadable messages.
        redaction: hides secrets in what people see of letters, because an older worker may not have hidden them.
            `None`: hides what looks like a secret, and the usual names.
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
        self._complaints = Complaints(logger)
        self._set_aside = SetAsideLog()
        self._redacted = redaction or LetterRedaction()

    def run_once(self, deliveries: Sequence[D], now: datetime) -> IngestReport[D]:
        """Archive a batch in one transaction, or in several where the archive refuses one of its letters.

        Raises:
            StoreError: the archive cannot be written. Acknowledge nothing of this batch: to archive it again is safe.
        """
        items: list[_Item[D]] = []
        held: list[D] = []
        for delivery in deliveries:
            try:
                items.append(self._read(delivery, now))
            except Exception as exc:  # noqa: BLE001 whatever it is, it concerns this delivery alone
                self._log_held(delivery, exc)
                held.append(delivery)
        report: IngestReport[D] = self._archive_in_parts(items, now) if items else IngestReport()
        return replace(report, held=[*held, *report.held])

    def probe(self) -> None:
        """Check that the archive can be written.

        Raises:
            StoreError: it cannot.
        """
        probe(self._store)

    def _read(self, delivery: D, now: datetime) -> _Item[D]:
        reports = delivery.queue in self._recovered
        try:
            if reports:
                return _Item(delivery, decode_recovery(delivery.body))
            return _Item(delivery, Archivable(*self._redacted(decode(delivery.body), delivery.body)))
        except NewerSchema:
            raise
        except Exception as exc:  # noqa: BLE001 a message may hold anything, and so may an error about it
            return self._unreadable(delivery, ("not a recovery report: " if reports else "") + _words(exc), now)

    def _unreadable(self, delivery: D, problem: str, now: datetime) -> _Item[D]:
        made = unreadable(
            delivery.body,
            problem,
            delivery.queue,
            now,
            environment=self._environment,
            content_type=delivery.content_type,
            headers=delivery.headers,
        )
        return _Item(delivery, Archivable.of(made), is_last=True, stands_for=named_in(delivery.body))

    def _archive_in_parts(self, items: Sequence[_Item[D]], now: datetime) -> IngestReport[D]:
        """Archive the items; where the archive does not take all of them together, each half by itself."""
        try:
            return self._archive(items, now)
        except Exception as exc:  # noqa: BLE001 unless the archive is away, one item is the cause
            raise_if_away(self._store, exc)
            if len(items) == 1:
                return self._archive_refused(items[0], exc, now)
        half = len(items) // 2
        return _joined(self._archive_in_parts(items[:half], now), self._archive_in_parts(items[half:], now))

    def _archive_refused(self, item: _Item[D], exc: Exception, now: datetime) -> IngestReport[D]:
        """Archive a refused item as an undecodable letter; else hold its delivery."""
        if not item.is_last:
            try:
                plainer = self._unreadable(item.delivery, f"the archive refused the letter: {_words(exc)}", now)
                report = self._archive([plainer], now)
            except Exception as again:  # noqa: BLE001 whatever it is, it concerns this delivery alone
                raise_if_away(self._store, again)
                exc = again
            else:
                logger.warning("a letter in %s is archived as undecodable: %s", item.delivery.queue, _words(exc))
                return report
        self._log_held(item.delivery, exc)
        return IngestReport(held=[item.delivery])

    def _log_held(self, delivery: D, exc: Exception) -> None:
        """Log why a delivery stays in its queue: once, although it comes again with each connection."""
        name = hashlib.sha256(delivery.body).hexdigest()
        self._complaints.once(name, "a message stays in %s: %s", one_line(delivery.queue), _words(exc))

    def _archive(self, items: Sequence[_Item[D]], now: datetime) -> IngestReport[D]:
        dead = [item.what for item in items if isinstance(item.what, Archivable)]
        with self._store.begin() as conn:
            stood = letters.before(conn, [each.letter for each in dead])
            results = letters.archive(conn, dead, now) if dead else []
            fresh = [r for r in results if r.outcome in (Outcome.NEW, Outcome.REGRESSED)]
            alert.record(conn, _events(fresh, stood, now))
            reconcile.note_renamed(conn, _renamed(items, results), now)
            reported = letters.recover(conn, [item.what for item in items if isinstance(item.what, Recovery)], now)
            tally.add_deaths(conn, [one.letter for one in fresh], now)
        self._set_aside.log([*(one.set_aside for one in results), *(one.set_aside for one in reported)])
        recovered = sum(one.recovered for one in reported)
        settled = [item.delivery for item in items]
        return IngestReport(settled, [], len(fresh), recovered, len(items) - len(fresh) - recovered)


def _renamed(items: Sequence[_Item[D]], results: Sequence[Archived]) -> dict[str, tuple[str, str]]:
    """The deaths that are archived under another id than the one that their worker counted: it is not missing."""
    dead = [(item.what.letter, item.stands_for) for item in items if isinstance(item.what, Archivable)]
    named = [
        (published or Named(letter.id, letter.environment, letter.task), one.letter.id)
        for (letter, published), one in zip(dead, results, strict=True)
    ]
    return {each.id: (each.environment, each.task) for each, kept in named if each.id != kept}


def _joined(one: IngestReport[D], other: IngestReport[D]) -> IngestReport[D]:
    return IngestReport(
        [*one.settled, *other.settled],
        [*one.held, *other.held],
        one.archived + other.archived,
        one.recovered + other.recovered,
        one.known + other.known,
    )


def _words(exc: Exception) -> str:
    """An error in one line, whatever is in it."""
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 an error about something odd may be odd itself
        text = ""
    return cut(one_line(text), _LONGEST_WORDS) or type(exc).__name__
