"""The poster: delivers each notification in the outbox once, also after a crash.

A row is `sending` in the store before the poster calls the sink, so that after a crash it searches the sink for the
message; a sink that cannot be searched may get a duplicate, which says so. `trouble` decides what to do after an error.
It must not know when a group notifies, nor how a sink works.
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

from celery_guardrails.alerts.brief import render_in_brief
from celery_guardrails.alerts.complaint import Complaints
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.alerts.intent import Kind, Notice
from celery_guardrails.alerts.lease import PosterLease, SoleLease
from celery_guardrails.alerts.render import Rendered, Style, render, render_reply
from celery_guardrails.alerts.sinks.log import LogSink
from celery_guardrails.alerts.sinks.sink import Posted, Sink
from celery_guardrails.alerts.trouble import Circuit, Remedy, look_remedy, remedy
from celery_guardrails.errors import Trouble, Undelivered
from celery_guardrails.store import alert, outbox
from celery_guardrails.store.alert import GroupRow
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
_T = TypeVar("_T")


@dataclass(frozen=True)
class Delivery:
    """What one `deliver_once` did.

    `sent`, `failed` and `waiting` (still in the outbox) count notifications. `next_due` is when to deliver again
    (`None`: when there is something new). `circuit_open`: the sink's credentials do not work at present. `leading`:
    this process is the poster.
    """

    sent: int = 0
    failed: int = 0
    waiting: int = 0
    next_due: datetime | None = None
    circuit_open: bool = False
    leading: bool = True


@dataclass(frozen=True)
class _Job:
    """One notification with its group, its message, and what the sink has to do (`action`)."""

    row: OutboxRow
    group_row: GroupRow
    rendered: Rendered
    action: Kind

    @property
    def posted(self) -> Posted:
        return Posted(self.group_row.message_ts or "", self.group_row.channel or "")


class Poster:
    """Deliver what the outbox holds.

    Args:
        store: the archive.
        sink: where alerts go.
        style: what messages say beside the figures.
        fallback_channel: gets a message whose own channel does not take it; `None`: the log does.
        lease: elects the poster among several guardians; `None` when there is only one.
        copy: a sink that gets every new message as well, such as the log; `None`: no copy.
        rng: draws the waits between attempts.
    """

    def __init__(
        self,
        store: Store,
        sink: Sink,
        *,
        style: Style = Style(),  # noqa: B008 - frozen
        fallback_channel: str | None = None,
        lease: PosterLease | None = None,
        copy: Sink | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._sink = sink
        self._style = style
        self._fallback_channel = fallback_channel
        self._lease = lease or SoleLease()
        self._copy = copy
        self._rng = rng or random.Random()
        self._log = LogSink()
        self._circuit = Circuit()
        self._not_before: dict[str, datetime] = {}
        self._complaints = Complaints(_logger, trace=True)
        self._aside: set[int] = set()

    def close(self, now: datetime) -> None:
        """Let another guardian post at once, instead of when the lease expires."""
        self._lease.release(now)

    def deliver_once(self, now: datetime) -> Delivery:
        """Deliver what is due, in each channel at most one message per `min_gap`; call it again at `next_due`.

        Raises:
            StoreError: the archive cannot be read or written; nothing is lost, call it again.
        """
        fence = self._lease.hold(now)
        if fence is None:
            return Delivery(leading=False)
        with self._store.begin() as conn:
            outbox.sweep(conn, fence=fence, now=now)
        tally: Counter[str] = Counter()
        for _ in range(_ROUNDS):
            if not self._round(fence, now, tally):
                break
        if self._circuit.is_open:
            self._log_waiting(fence, now)
        waiting = self._live()
        dues = [self._circuit.probe_at or self._due(row) for row in _heads(waiting)]
        return Delivery(
            sent=tally["sent"],
            failed=tally["failed"],
            waiting=len(waiting),
            next_due=min(dues, default=None),
            circuit_open=self._circuit.is_open,
        )

    def _round(self, fence: int, now: datetime, tally: Counter[str]) -> bool:
        """Try each group's oldest notification once; returns whether the state of any changed."""
        rows = self._live()
        if not rows or (self._circuit.is_open and not self._probe(now)):
            return False
        moved = False
        for row in _heads(rows):
            if self._due(row) > now or self._circuit.is_open or row.id in self._aside:
                continue
            try:
                status = self._turn(row, rows, fence, now)
            except Exception as exc:  # noqa: BLE001 one that fails must not hold up the others
                status = self._set_aside(row, fence, exc)
            tally[status] += 1
            moved = moved or status != "lost"
        return moved

    def _turn(self, row: OutboxRow, rows: list[OutboxRow], fence: int, now: datetime) -> str:
        if _superseded(row, rows):
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

    def _probe(self, now: datetime) -> bool:
        """Check a sink whose credentials did not work; returns whether it takes messages again."""
        if self._circuit.probe_at is not None and now < self._circuit.probe_at:
            return False
        try:
            _guarded(self._sink.check)
        except Undelivered as error:
            if error.trouble is Trouble.AUTH or error.retryable:
                self._circuit.open(now)
                return False
        self._circuit.close()
        return True

    def _send(self, row: OutboxRow, fence: int, now: datetime) -> str:
        uid = row.post_uid or uuid4().hex
        # Only a lease in the store has something to check here.
        held = getattr(self._lease, "held", None)
        with self._store.begin() as conn:
            if not outbox.claim(conn, row, fence=fence, post_uid=uid, now=now, held=held):
                return "lost"
        row = replace(row, post_uid=uid, claimed_at=now)
        # Load it after the claim: whatever changes from now on queues an edit of its own.
        job = self._job(row, now)
        if job is None or (job.action is Kind.EDIT and job.rendered.digest == job.group_row.shown):
            return self._change(row, fence, "sent", reason="nothing to change")
        self._not_before[_place(row)] = now + timedelta(seconds=self._sink.min_gap)
        try:
            posted = self._call(job)
        except Undelivered as error:
            return self._remedy(job, fence, now, remedy(row, job.action, error, now, self._rng, self._fallback_channel))
        if self._copy is not None and (job.action is Kind.POST or row.broadcast):
            with contextlib.suppress(Undelivered):
                self._copy.post(job.rendered.message())
        return self._sent(job, fence, posted, shown=job.rendered.digest)

    def _look(self, row: OutboxRow, fence: int, now: datetime) -> str:
        job = self._job(row, now)
        if job is None or job.action is Kind.EDIT:
            return self._change(row, fence, "pending", next_try_at=now)
        if not self._sink.can_find:
            error = Undelivered(Trouble.REFUSED, "cannot be searched")
            return self._remedy(job, fence, now, look_remedy(row, error, now, self._rng))
        thread = job.posted.ts if job.action is Kind.REPLY else ""
        channel = row.notes.get("channel") or (job.posted.channel if thread else None)
        since = (row.claimed_at or row.created_at) - _LOOK_BACK
        try:
            found = _guarded(lambda: self._sink.find(row.post_uid or "", since=since, channel=channel, thread=thread))
        except Undelivered as error:
            return self._remedy(job, fence, now, look_remedy(row, error, now, self._rng))
        if found is not None:
            return self._sent(job, fence, found, shown=None)
        if row.absent + 1 < _ABSENCES:
            return self._change(row, fence, "unknown", absent=row.absent + 1, next_try_at=now + _ABSENT_AGAIN)
        return self._change(row, fence, "pending", absent=0, next_try_at=now)

    def _call(self, job: _Job) -> Posted:
        message = job.rendered.message(job.row.post_uid or "", as_plain_text=bool(job.row.notes.get("plain")))
        if job.action is Kind.EDIT:
            _guarded(lambda: self._sink.edit(job.posted, message))
            return job.posted
        if job.action is Kind.REPLY:
            return _guarded(lambda: self._sink.reply(job.posted, message, broadcast=job.row.broadcast))
        return _guarded(lambda: self._sink.post(message, channel=job.row.notes.get("channel")))

    def _sent(self, job: _Job, fence: int, posted: Posted, *, shown: str | None) -> str:
        row = job.row
        with self._store.begin() as conn:
            done = {"status": "sent", "channel": posted.channel, "ts": posted.ts, "reason": None}
            if not outbox.change(conn, row, fence=fence, **done):
                return "lost"
            if job.action is Kind.POST:
                alert.save_posted(conn, row.group_key, row.period, posted.channel, posted.ts)
            if job.action is not Kind.REPLY:
                alert.save_shown(conn, row.group_key, row.period, shown)
        return "sent"

    def _remedy(self, job: _Job, fence: int, now: datetime, cure: Remedy) -> str:
        _logger.info("alert %s of %s: %s", job.row.kind, job.row.group_key, cure.changes.get("reason"))
        if cure.pause is not None:
            self._not_before[_place(job.row)] = cure.pause
        if cure.open_circuit:
            _logger.warning("%s refuses alerts (%s): they go to the log", self._sink.name, cure.changes.get("reason"))
            self._circuit.open(now)
        if cure.to_log:
            _logger.warning("%s did not take this alert: %s", self._sink.name, cure.changes.get("reason"))
            self._log.post(job.rendered.message())
        return self._change(job.row, fence, cure.status, **cure.changes)

    def _log_waiting(self, fence: int, now: datetime) -> None:
        """Log once each alert that the sink should have got by now."""
        for row in self._live():
            job = None if row.kind == Kind.EDIT or row.notes.get("logged") else self._job(row, now)
            if job is None:
                continue
            self._log.post(job.rendered.message())
            # A reply is about this instant: the sink gets none later. It gets a post, which shows the latest state.
            status = "failed" if row.kind == Kind.REPLY else row.status
            self._change(row, fence, status, notes={**row.notes, "logged": True})

    def _job(self, row: OutboxRow, now: datetime) -> _Job | None:
        with self._store.read() as conn:
            found = alert.load_groups(conn, keys=[row.group_key])
        if not found or found[0].period != row.period:
            return None
        action = self._action(row, found[0])
        return None if action is None else _Job(row, found[0], self._rendered(row, found[0], action, now), action)

    def _rendered(self, row: OutboxRow, group_row: GroupRow, action: Kind, now: datetime) -> Rendered:
        """Its message; a brief one where the group cannot be rendered."""
        try:
            group = AlertGroup.from_payload(group_row.data)
            if action is Kind.REPLY:
                return render_reply(group, Notice(row.notice), row.facts, self._style, _remarks(row))
            return render(group, now, self._style, _remarks(row))
        except Exception as exc:  # noqa: BLE001 one group that fails must not hold up the others
            self._complaints.once(row.group_key, "the alert of %s is shown in brief: %s", one_line(row.group_key), exc)
            return render_in_brief(group_row.task, group_row.environment, self._style)

    def _action(self, row: OutboxRow, group: GroupRow) -> Kind | None:
        if row.kind == Kind.POST or row.notes.get("repost"):
            return Kind.POST
        if group.message_ts is not None and self._sink.can_edit:
            return Kind(row.kind)
        return Kind.POST if row.kind == Kind.REPLY else None

    def _change(self, row: OutboxRow, fence: int, status: str, **changes: Any) -> str:
        with self._store.begin() as conn:
            return status if outbox.change(conn, row, fence=fence, status=status, **changes) else "lost"

    def _live(self) -> list[OutboxRow]:
        with self._store.read() as conn:
            return outbox.live(conn)

    def _due(self, row: OutboxRow) -> datetime:
        return max(row.next_try_at, self._not_before.get(_place(row), row.next_try_at))


def _heads(rows: list[OutboxRow]) -> Iterator[OutboxRow]:
    """The oldest row of each group: a group's notifications are delivered in their order."""
    seen = set()
    for row in rows:
        if row.group_key not in seen:
            seen.add(row.group_key)
            yield row


def _superseded(row: OutboxRow, rows: list[OutboxRow]) -> bool:
    """Whether a later post of the same group waits: both would show the same state, so one is enough."""
    if row.kind != Kind.POST or row.status != "pending":
        return False
    return any(other.id > row.id and other.kind == Kind.POST and other.group_key == row.group_key for other in rows)


def _place(row: OutboxRow) -> str:
    return str(row.notes.get("channel") or "")


def _remarks(row: OutboxRow) -> tuple[str, ...]:
    remarks = []
    if row.notes.get("because"):
        remarks.append(f"Posted here because its own channel does not take it: {row.notes['because']}")
    if row.notes.get("duplicate"):
        remarks.append("Possible duplicate: the first try may have arrived")
    return tuple(remarks)


def _guarded(call: Callable[[], _T]) -> _T:
    try:
        return call()
    except Undelivered:
        raise
    except Exception as error:
        raise Undelivered(Trouble.UNCERTAIN, type(error).__name__) from error
