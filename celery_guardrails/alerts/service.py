"""The guardian's alert service: counts recorded dead letters, stores notifications, has them delivered.

Owns the order of these steps: load, step, store in one transaction, deliver. It must not know when a group notifies
(engine), in which words (render), or how they are delivered (outbox).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from celery_guardrails import clock
from celery_guardrails.alerts.complaint import Complaints
from celery_guardrails.alerts.engine import next_due, step
from celery_guardrails.alerts.event import AlertEvent, EngineEvent, LettersChanged, Tick, group_key
from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.alerts.intent import Intent
from celery_guardrails.alerts.lease import PosterLease
from celery_guardrails.alerts.outbox import Delivery, Poster
from celery_guardrails.alerts.render import Style
from celery_guardrails.alerts.rules import Rules
from celery_guardrails.alerts.sinks.log import LogSink
from celery_guardrails.alerts.sinks.several import Sinks
from celery_guardrails.alerts.sinks.sink import Sink
from celery_guardrails.errors import UNNAMED_APP
from celery_guardrails.policy.decision import Reason
from celery_guardrails.settings import AlertSettings
from celery_guardrails.store import alert
from celery_guardrails.store.alert import GroupRow
from celery_guardrails.store.alert_change import GroupChange, apply_changes
from celery_guardrails.store.engine import Store
from celery_guardrails.store.outbox import OutboxRow
from celery_guardrails.store.probe import raise_if_away
from celery_guardrails.text import one_line

__all__ = ["AlertService", "Report"]

_logger = logging.getLogger(__name__)
_BATCH = 1000
_LIVE = (GroupState.PENDING.value, GroupState.OPEN.value, GroupState.QUIET.value)
_RECOUNT = timedelta(seconds=5)


@dataclass(frozen=True)
class Report:
    """What one `run_once` did.

    `events` were counted, `queued` notifications stored, `delivery` is what the poster did. `next_due` is when to
    run again at the latest, or `None` when only a new dead letter can change anything.
    """

    events: int
    queued: int
    delivery: Delivery
    next_due: datetime | None


@dataclass(frozen=True)
class _Loaded:
    """A group as stored (`row` is `None` for a new one), the events it has to count, the states of its letters."""

    group: AlertGroup
    row: GroupRow | None
    ref_ids: tuple[str, ...]
    happened: tuple[EngineEvent, ...]


_Stepped = tuple[AlertGroup, GroupChange | None]


class AlertService:
    """Turn recorded events into alerts, once.

    Args:
        store: the archive, whose schema is up to date.
        sink: where alerts go; `build_sink(settings.slack)` makes it.
        settings: `settings.alerts`: group_by, group_wait (30 s), group_wait_urgent (5 s), edit_interval (60 s),
            cooldown (30 min), quiet (15 min), reopen_within (1 h), console_url, log_always.
        fallback_channel: `settings.slack.fallback_channel`; `None`: the log.
        lease: elects the poster among several guardians, a `StoreLease`; `None` when there is only one.
        app: what to write after `celery -A` in the commands shown.
    """

    def __init__(
        self,
        store: Store,
        sink: Sink | Sinks,
        settings: AlertSettings,
        *,
        fallback_channel: str | None = None,
        lease: PosterLease | None = None,
        app: str = UNNAMED_APP,
    ) -> None:
        self._store = store
        self._rules = Rules.from_settings(settings, can_edit=sink.can_edit)
        console = settings.console_url.rstrip("/") if settings.console_url else None
        self.poster = Poster(
            store,
            sink,
            style=Style(app=app, console_url=console, quiet=settings.quiet),
            fallback_channel=fallback_channel,
            lease=lease,
            copy=LogSink() if settings.log_always and not isinstance(sink, LogSink) else None,
        )
        self._recounted_at: dict[str, datetime] = {}
        self._complaints = Complaints(_logger, trace=True)

    def run_once(self, now: datetime, flush: bool = False) -> Report:
        """Count, decide, store, deliver.

        Args:
            now: this instant.
            flush: do not wait for `group_wait` or `edit_interval`, because nobody may look again soon.

        Raises:
            StoreError: the archive cannot be read or written; nothing is lost or sent twice, run it again.
        """
        events = queued = 0
        more = True
        while more:
            loaded, more = self._load(now, flush)
            stepped = [step for one in loaded if (step := self._advance(one, now, Tick(flush), last=not more))]
            changes = [change for _, change in stepped if change is not None]
            stored = self._save(changes, now) if changes else 0
            if stored is None:
                # Another guardian was quicker: it has counted these events, or the next run does.
                break
            events, queued = events + sum(len(one.ref_ids) for one in loaded), queued + stored
        delivery = self.poster.deliver_once(now)
        dues = [delivery.next_due, *(next_due(group, self._rules) for group, _ in stepped)]
        return Report(events, queued, delivery, min((due for due in dues if due is not None), default=None))

    def drain(
        self,
        within: timedelta,
        *,
        now: Callable[[], datetime] = clock.now,
        wait: Callable[[float], object] = time.sleep,
    ) -> Report:
        """Run with `flush` until nothing is left to deliver, or `within` is over: for `guardian --once`.

        Args:
            within: how long to wait for a slow sink; what is left then stays in the outbox.
            now: the clock.
            wait: sleeps for so many seconds.
        """
        end = now() + within
        report = self.run_once(now(), flush=True)
        while report.delivery.next_due is not None and max(report.delivery.next_due, now()) <= end:
            wait(max(0.0, (report.delivery.next_due - now()).total_seconds()) + 0.01)
            later = self.run_once(now(), flush=True)
            report = _join(report, later)
        return report

    def close(self, now: datetime) -> None:
        """Give the poster's lease back: call it when the guardian stops.

        Raises:
            StoreError: the archive cannot be written; the lease then expires by itself.
        """
        self.poster.close(now)

    def _advance(self, loaded: _Loaded, now: datetime, tick: Tick, *, last: bool) -> _Stepped | None:
        """The group after what happened; `None`: the step failed, and the other groups go on."""
        try:
            return _step(loaded, now, self._rules, tick, last=last)
        except Exception as exc:  # noqa: BLE001 a fault in one group must not stop the others
            self._leave_out(loaded.group.key, loaded.ref_ids, exc)
            return None

    def _save(self, changes: Sequence[GroupChange], now: datetime) -> int | None:
        """Store the changes, one by one if the archive refuses them together; `None`: another guardian was quicker."""
        try:
            return apply_changes(self._store, changes, now)
        except Exception as exc:  # noqa: BLE001 one of the groups is to blame, unless the archive is
            raise_if_away(self._store, exc)
        queued = 0
        for change in changes:
            try:
                stored = apply_changes(self._store, [change], now)
            except Exception as exc:  # noqa: BLE001 as above
                raise_if_away(self._store, exc)
                self._leave_out(change.group.key, change.ref_ids, exc)
            else:
                if stored is None:
                    return None
                queued += stored
        return queued

    def _leave_out(self, key: str, ref_ids: Sequence[str], exc: Exception) -> None:
        """Mark a group's events as counted, so that they are not loaded again and again; log it once for each group."""
        words = "the alert of %s cannot be stored, so its dead letters are only in the archive: %s"
        self._complaints.once(key, words, one_line(key), exc)
        if ref_ids:
            with self._store.begin() as conn:
                alert.mark_processed(conn, ref_ids, "")

    def _load(self, now: datetime, flush: bool) -> tuple[list[_Loaded], bool]:
        """Every live group and every group with new events; returns also whether more events wait."""
        with self._store.read() as conn:
            batch = alert.unprocessed(conn, _BATCH)
            by_key, broken = _by_group(batch, self._rules.group_by)
            rows = alert.load_groups(conn, keys=[*by_key], states=_LIVE, updated_since=now - self._rules.reopen_within)
            stored = {row.key: row for row in rows}
            loaded = []
            for key in sorted({*stored, *by_key}):
                events, row = by_key.get(key, []), stored.get(key)
                group = self._group(row, events)
                if group is None:
                    continue
                happened: list[EngineEvent] = list(events)
                if events or flush or self._recount_due(key, now):
                    states = _states(conn, group)
                    happened.append(_letters(states))
                    self._recounted_at[key] = now
                loaded.append(_Loaded(group, row, tuple(event.ref_id for event in events), tuple(happened)))
        if broken:
            with self._store.begin() as conn:
                alert.mark_processed(conn, broken, "")
        self._recounted_at = {key: at for key, at in self._recounted_at.items() if key in stored or key in by_key}
        return loaded, len(batch) == _BATCH

    def _group(self, row: GroupRow | None, events: Sequence[AlertEvent]) -> AlertGroup | None:
        """The group as it is stored, or a new one; `None`: it cannot be read, and there are no new events."""
        if row is not None:
            try:
                return replace(AlertGroup.from_payload(row.data), posted=row.message_ts is not None)
            except ValueError as exc:
                words = "the stored alert of %s cannot be read, a new one begins: %s"
                self._complaints.once(row.key, words, one_line(row.key), exc)
        if not events:
            return None
        fresh = AlertGroup.idle(events[0], self._rules.group_by)
        return fresh if row is None else replace(fresh, period=row.period + 1)

    def _recount_due(self, key: str, now: datetime) -> bool:
        counted = self._recounted_at.get(key)
        return counted is None or now >= counted + _RECOUNT


def _by_group(
    batch: Sequence[tuple[str, Mapping[str, Any]]], group_by: tuple[str, ...]
) -> tuple[dict[str, list[AlertEvent]], list[str]]:
    """The events by group, and the ids of those that cannot be read."""
    by_key: dict[str, list[AlertEvent]] = {}
    broken = []
    for ref_id, payload in batch:
        try:
            event = AlertEvent.from_payload(payload)
        except ValueError as error:
            _logger.warning("the alert event %s cannot be read, so no alert counts it: %s", ref_id, error)
            broken.append(ref_id)
        else:
            by_key.setdefault(group_key(event, group_by), []).append(event)
    return by_key, broken


def _step(loaded: _Loaded, now: datetime, rules: Rules, tick: Tick, *, last: bool) -> _Stepped:
    group, intents = loaded.group, list[Intent]()
    # Only the last batch notifies, so that the first message counts all that came together.
    for event in (*loaded.happened, tick) if last else loaded.happened:
        group, further = step(group, event, now, rules)
        intents += further
    if group == loaded.group:
        return group, None
    row = GroupRow(
        key=group.key,
        environment=group.environment,
        task=group.task,
        state=group.state.value,
        period=group.period,
        baseline=group.base,
        data=group.as_payload(),
        version=loaded.row.version if loaded.row else 0,
    )
    return group, GroupChange(row, loaded.ref_ids, tuple(_notification(group, intent, now) for intent in intents))


def _notification(group: AlertGroup, intent: Intent, now: datetime) -> OutboxRow:
    return OutboxRow(
        group_key=group.key,
        period=intent.period,
        kind=intent.kind.value,
        ordinal=intent.ordinal,
        notice=intent.notice.value,
        broadcast=intent.broadcast,
        facts=dict(intent.facts),
        created_at=now,
        next_try_at=now,
    )


def _states(conn: Any, group: AlertGroup) -> dict[str, int]:
    """How many letters of a group are in which state."""
    if group.unknown_names is not None:
        return alert.letter_states(conn, group.environment, reason=Reason.UNKNOWN_TASK)
    return alert.letter_states(conn, group.environment, task=group.task, fingerprint=group.fingerprint)


def _letters(states: Mapping[str, int]) -> LettersChanged:
    return LettersChanged(
        dead=states.get("dead", 0),
        requeued=states.get("requeued", 0),
        recovered=states.get("recovered", 0),
        discarded=states.get("discarded", 0),
    )


def _join(first: Report, later: Report) -> Report:
    delivery = replace(
        later.delivery,
        sent=first.delivery.sent + later.delivery.sent,
        failed=first.delivery.failed + later.delivery.failed,
    )
    return Report(first.events + later.events, first.queued + later.queued, delivery, later.next_due)
