"""The poster: delivers each notification in the outbox once, each to its own sink, also after a crash.

A row is `sending` in the store before the poster calls the sink, so that after a crash it searches the sink for the
message; a sink that cannot be searched may get a duplicate, which says so. `trouble` decides what to do after an error,
`composition` how a notification becomes a message. It must not know when a group notifies, nor how a sink works.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

from celery_guardrails.alerts.complaint import Complaints
from celery_guardrails.alerts.composition import Composer, Job
from celery_guardrails.alerts.intent import Kind
from celery_guardrails.alerts.lease import PosterLease, SoleLease
from celery_guardrails.alerts.line import Line
from celery_guardrails.alerts.render import Style
from celery_guardrails.alerts.sinks.several import LOG, Place, Sinks
from celery_guardrails.alerts.sinks.sink import Posted, Sink
from celery_guardrails.alerts.trouble import FALL_BACK_AFTER, Remedy, look_remedy, remedy
from celery_guardrails.errors import Trouble, Undelivered
from celery_guardrails.store import alert, outbox
from celery_guardrails.store.engine import Store
from celery_guardrails.store.outbox import OutboxRow
from celery_guardrails.store.probe import raise_if_away
from celery_guardrails.text import one_line

__all__ = ["Delivery", "Poster"]

_logger = logging.getLogger(__name__)
_ABSENT_AGAIN = timedelta(seconds=5)
_LOOK_BACK = timedelta(minutes=10)
_ABSENCES = 2
_ROUNDS = 1000
_FALLBACK = "fallback"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Delivery:
    """What one `deliver_once` did.

    `sent`, `failed` and `waiting` (still in the outbox) count notifications, `fallen` those that went to the fallback
    sink. `next_due` is when to deliver again (`None`: when there is something new). `circuit_open`: the credentials of
    a sink do not work at present. `down` names the sinks that did not take the last message. `leading`: this process is
    the poster.
    """

    sent: int = 0
    failed: int = 0
    waiting: int = 0
    next_due: datetime | None = None
    circuit_open: bool = False
    leading: bool = True
    fallen: int = 0
    down: tuple[str, ...] = ()


class Poster:
    """Deliver what the outbox holds.

    Args:
        store: the archive.
        sink: where alerts go, or all the sinks and the routes to them.
        style: what messages say beside the figures.
        fallback_channel: gets a message whose own channel of Slack does not take it; `None`: the fallback sink does.
        lease: elects the poster among several guardians; `None` when there is only one.
        copy: a sink that gets every new message as well, such as the log; `None`: no copy.
        rng: draws the waits between attempts.

    Attributes:
        leads: whether this process was the poster when it last delivered.
    """

    def __init__(
        self,
        store: Store,
        sink: Sink | Sinks,
        *,
        style: Style = Style(),  # noqa: B008 - frozen
        fallback_channel: str | None = None,
        lease: PosterLease | None = None,
        copy: Sink | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self.sinks = sink if isinstance(sink, Sinks) else Sinks(sink)
        self._lines = {name: Line(each) for name, each in self.sinks.by_name.items()}
        self._fallback_channel = fallback_channel
        self._lease = lease or SoleLease()
        self._copy = copy
        self._rng = rng or random.Random()
        self._complaints = Complaints(_logger, trace=True)
        self._composer = Composer(store, style, self._complaints)
        self._places: dict[tuple[str, int], Place] = {}
        self._aside: set[int] = set()

        self.leads = False

    def close(self, now: datetime) -> None:
        """Let another guardian post at once, instead of when the lease expires."""
        self._lease.release(now)

    @property
    def well(self) -> dict[str, bool]:
        """Each sink by name, and whether it takes messages: `False` while one waits that it did not take."""
        return {name: line.is_well for name, line in self._lines.items()}

    def deliver_once(self, now: datetime) -> Delivery:
        """Deliver what is due, in each channel at most one message per `min_gap`; call it again at `next_due`.

        Raises:
            StoreError: the archive cannot be read or written; nothing is lost, call it again.
        """
        fence = self._lease.hold(now)
        self.leads = fence is not None
        if fence is None:
            return Delivery(leading=False)
        with self._store.begin() as conn:
            outbox.sweep(conn, fence=fence, now=now)
        tally: Counter[str] = Counter()
        for _ in range(_ROUNDS):
            if not self._round(fence, now, tally) and not self._fall_back(fence, now):
                break
        waiting = self._live()
        for name in {*self._lines} - {self._place(row).sink for row in waiting}:
            self._lines[name].forget()  # nothing waits for it, so nobody knows whether it is still down
        self._places = {key: self._places[key] for row in waiting if (key := _period(row)) in self._places}
        return Delivery(
            sent=tally["sent"],
            failed=tally["failed"],
            waiting=len(waiting),
            next_due=min(map(self._due, _heads(waiting)), default=None),
            fallen=tally[_FALLBACK],
            circuit_open=any(line.circuit.is_open for line in self._lines.values()),
            down=tuple(name for name, line in self._lines.items() if not line.is_well),
        )

    def _round(self, fence: int, now: datetime, tally: Counter[str]) -> bool:
        """Try the oldest notification of each group once; returns whether the state of any changed."""
        rows = self._live()
        moved = False
        for row in _heads(rows):
            if row.id in self._aside or not self._may_try(row, now):
                continue
            try:
                status = self._turn(row, rows, fence, now)
            except Exception as exc:  # noqa: BLE001 one that fails must not hold up the others
                status = self._set_aside(row, fence, exc)
            tally[status if row.kind != _FALLBACK else _FALLBACK] += 1
            moved = moved or status != "lost"
        return moved

    def _may_try(self, row: OutboxRow, now: datetime) -> bool:
        line = self._line(row)
        return (not line.circuit.is_open or self._probe(line, now)) and self._due(row) <= now

    def _turn(self, row: OutboxRow, rows: list[OutboxRow], fence: int, now: datetime) -> str:
        if _is_superseded(row, rows):
            return self._change(row, fence, "failed", reason="superseded by a later message")
        return self._look(row, fence, now) if row.status == "unknown" else self._send(row, fence, now)

    def _set_aside(self, row: OutboxRow, fence: int, exc: Exception) -> str:
        """Give up one notification; raises a `StoreError` where the archive is to blame, not the notification."""
        raise_if_away(self._store, exc)
        self._complaints.once(row.group_key, "an alert of %s is given up: %s", one_line(row.group_key), exc)
        try:
            return self._change(row, fence, "failed", reason=type(exc).__name__)
        except Exception as again:  # noqa: BLE001 as above
            raise_if_away(self._store, again)
            self._aside.add(row.id)  # left alone until this process ends
            return "lost"

    def _probe(self, line: Line, now: datetime) -> bool:
        """Check a sink whose credentials did not work; returns whether it takes messages again."""
        if line.circuit.probe_at is not None and now < line.circuit.probe_at:
            return False
        try:
            _guarded(line.sink.check)
        except Undelivered as error:
            if error.trouble is Trouble.AUTH or error.retryable:
                line.circuit.open(now)
                return False
        line.circuit.close()
        return True

    def _send(self, row: OutboxRow, fence: int, now: datetime) -> str:
        place, uid = self._place(row), row.post_uid or uuid4().hex
        notes = {**row.notes, "place": [place.sink, place.channel]}
        if _asks_others(row):
            notes["beside"] = True
        # Only a lease in the store has something to check here.
        held = getattr(self._lease, "held", None)
        with self._store.begin() as conn:
            if not outbox.claim(conn, row, fence=fence, post_uid=uid, now=now, held=held, notes=notes):
                return "lost"
        row, line = replace(row, post_uid=uid, claimed_at=now, notes=notes), self._lines[place.sink]
        # Load it after the claim: whatever changes from now on queues an edit of its own.
        job = self._composer.compose(row, now, can_edit=line.sink.can_edit)
        if job is None or (job.action is Kind.EDIT and job.rendered.digest == job.group_row.shown):
            return self._change(row, fence, "sent", reason="nothing to change")
        line.use(_channel(row, place), now)
        try:
            posted = self._call(job, line, place)
        except Undelivered as error:
            channel = self._fallback_channel if line.sink.name == self.sinks.default.name else None
            return self._remedy(job, fence, now, remedy(row, job.action, error, now, self._rng, channel))
        line.succeed()
        if self._copy is not None and self._copy.name != place.sink and (job.action is Kind.POST or row.broadcast):
            with contextlib.suppress(Undelivered):
                self._copy.post(job.message())
        return self._sent(job, fence, posted, shown=job.rendered.digest)

    def _look(self, row: OutboxRow, fence: int, now: datetime) -> str:
        place, line = self._place(row), self._line(row)
        job = self._composer.compose(row, now, can_edit=line.sink.can_edit)
        if job is None or job.action is Kind.EDIT:
            return self._change(row, fence, "pending", next_try_at=now)
        if not line.sink.can_find:
            error = Undelivered(Trouble.REFUSED, "cannot be searched")
            return self._remedy(job, fence, now, look_remedy(row, error, now, self._rng))
        thread = job.posted.ts if job.action is Kind.REPLY else ""
        channel = job.posted.channel if thread else _channel(row, place)
        since = (row.claimed_at or row.created_at) - _LOOK_BACK
        try:
            found = _guarded(lambda: line.sink.find(row.post_uid or "", since=since, channel=channel, thread=thread))
        except Undelivered as error:
            return self._remedy(job, fence, now, look_remedy(row, error, now, self._rng))
        line.succeed()
        if found is not None:
            return self._sent(job, fence, found, shown=None)
        if row.absent + 1 < _ABSENCES:
            return self._change(row, fence, "unknown", absent=row.absent + 1, next_try_at=now + _ABSENT_AGAIN)
        return self._change(row, fence, "pending", absent=0, next_try_at=now)

    def _call(self, job: Job, line: Line, place: Place) -> Posted:
        message = job.message()
        if job.action is Kind.EDIT:
            _guarded(lambda: line.sink.edit(job.posted, message))
            return job.posted
        if job.action is Kind.REPLY:
            return _guarded(lambda: line.sink.reply(job.posted, message, broadcast=job.row.broadcast))
        return _guarded(lambda: line.sink.post(message, channel=_channel(job.row, place)))

    def _sent(self, job: Job, fence: int, posted: Posted, *, shown: str | None) -> str:
        row = job.row
        beside = row.kind in (_FALLBACK, Kind.ESCALATION)
        with self._store.begin() as conn:
            done = {"status": "sent", "channel": posted.channel, "ts": posted.ts, "reason": None}
            if not outbox.change(conn, row, fence=fence, **done):
                return "lost"
            if job.action is Kind.POST and not beside:
                alert.save_posted(conn, row.group_key, row.period, posted.channel, posted.ts)
            if job.action is not Kind.REPLY and not beside:
                alert.save_shown(conn, row.group_key, row.period, shown)
        return "sent"

    def _remedy(self, job: Job, fence: int, now: datetime, cure: Remedy) -> str:
        row, line, reason = job.row, self._line(job.row), cure.changes.get("reason")
        _logger.info("alert %s of %s: %s", row.kind, row.group_key, reason)
        if cure.pause is not None:
            line.pause(_channel(row, self._place(row)), cure.pause)
        if cure.rest:
            line.rest(now, self._rng)
        if cure.open_circuit:
            _logger.warning("%s refuses alerts (%s): they go to %s", line.sink.name, reason, self.sinks.fallback.sink)
            line.circuit.open(now)
        if row.kind == _FALLBACK and (cure.rest or cure.fall or cure.open_circuit):
            return self._log(job, fence, reason)
        if cure.fall and not row.notes.get("fell"):
            return self._fall(replace(row, notes=cure.changes.get("notes", row.notes)), fence, now, cure)
        return self._change(row, fence, cure.status, **cure.changes)

    def _fall_back(self, fence: int, now: datetime) -> bool:
        """Hand what a sink should have taken by now to the fallback sink, each alert once; whether there was any."""
        rows, fell = self._live(), False
        for row in rows:
            is_open = self._line(row).circuit.is_open
            if row.kind == _FALLBACK and is_open:
                job = self._composer.compose(row, now, can_edit=False)
                fell = (job is not None and self._log(job, fence, row.reason) == "failed") or fell
            if row.kind in (Kind.EDIT, _FALLBACK) or row.notes.get("fell") or _is_superseded(row, rows):
                continue
            if is_open or now - row.created_at > FALL_BACK_AFTER:
                # A reply is about this instant: the sink gets none later. A post shows the state of its own time.
                status = "failed" if row.kind == Kind.REPLY else row.status
                cure = Remedy(status, {"reason": row.reason, "next_try_at": row.next_try_at})
                self._fall(row, fence, now, cure)
                fell = True
        return fell

    def _log(self, job: Job, fence: int, reason: str | None) -> str:
        """Log an alert that the fallback sink does not take either."""
        with contextlib.suppress(Undelivered):
            self._lines[LOG.sink].sink.post(job.message())
        return self._change(job.row, fence, "failed", reason=reason)

    def _fall(self, row: OutboxRow, fence: int, now: datetime, cure: Remedy) -> str:
        """Queue a row's alert for the fallback sink, in the transaction that changes the row."""
        own, place = self._place(row), self.sinks.fallback
        if place == own or self._lines[place.sink].circuit.is_open:
            place = LOG
        why = f"{own.sink} did not take it: {cure.changes.get('reason') or 'it did not answer'}"
        _logger.warning("an alert goes to %s: %s", place.sink, why)
        notes = {"place": [place.sink, place.channel], "of": row.kind, "because": why}
        further = replace(
            row, kind=_FALLBACK, ordinal=row.id, status="pending", broadcast=False, post_uid=None, claimed_at=None,
            created_at=now, next_try_at=now, attempts=0, absent=0, reason=None, channel=None, ts=None, notes=notes,
        )  # fmt: skip
        changes = {**cure.changes, "notes": {**row.notes, "fell": True}}
        with self._store.begin() as conn:
            if not outbox.change(conn, row, fence=fence, status=cure.status, **changes):
                return "lost"
            outbox.add(conn, replace(further, fence=fence))
        return cure.status

    def _place(self, row: OutboxRow) -> Place:
        """Where a notification goes: with the first one of its period, all but those that ask another channel."""
        if (noted := row.notes.get("place")) and noted[0] in self._lines:
            return Place(*noted)
        if _asks_others(row):
            return self.sinks.channel(row.facts["channel"])
        key = _period(row)
        if key not in self._places:
            self._places[key] = self._composer.place(row, self.sinks)
        return self._places[key]

    def _line(self, row: OutboxRow) -> Line:
        return self._lines[self._place(row).sink]

    def _change(self, row: OutboxRow, fence: int, status: str, **changes: Any) -> str:
        with self._store.begin() as conn:
            return status if outbox.change(conn, row, fence=fence, status=status, **changes) else "lost"

    def _live(self) -> list[OutboxRow]:
        with self._store.read() as conn:
            return outbox.live(conn)

    def _due(self, row: OutboxRow) -> datetime:
        line, place = self._line(row), self._place(row)
        return line.circuit.probe_at or line.free_at(_channel(row, place), row.next_try_at)


def _heads(rows: list[OutboxRow]) -> Iterator[OutboxRow]:
    """The oldest row of each group: a group's notifications are delivered in their order, each sink by itself."""
    seen = set()
    for row in rows:
        key = row.group_key, row.kind == _FALLBACK
        if key not in seen:
            seen.add(key)
            yield row


def _is_superseded(row: OutboxRow, rows: list[OutboxRow]) -> bool:
    """Whether a later post of the same group waits: both would show the same state, so one is enough."""
    if row.kind != Kind.POST or row.status != "pending":
        return False
    return any(other.id > row.id and other.kind == Kind.POST and other.group_key == row.group_key for other in rows)


def _period(row: OutboxRow) -> tuple[str, int]:
    return row.group_key, row.period


def _channel(row: OutboxRow, place: Place) -> str | None:
    return row.notes.get("channel") or place.channel


def _asks_others(row: OutboxRow) -> bool:
    """Whether it is an escalation's message to another channel, which the period's other messages do not follow."""
    return row.kind == Kind.ESCALATION and bool(row.facts.get("channel"))


def _guarded(call: Callable[[], _T]) -> _T:
    try:
        return call()
    except Undelivered:
        raise
    except Exception as error:
        raise Undelivered(Trouble.UNCERTAIN, type(error).__name__) from error
