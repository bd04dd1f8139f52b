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
from celery_guardrails.alerts.became import became, has_letters
from celery_guardrails.alerts.complaint import Complaints
from celery_guardrails.alerts.condition import Condition
from celery_guardrails.alerts.cover import digest_events, ticks
from celery_guardrails.alerts.engine import LIVE, next_due, step
from celery_guardrails.alerts.event import (
    AlertEvent,
    EngineEvent,
    Tick,
    digest_key,
    group_key,
    read_event,
)
from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.alerts.intent import Intent
from celery_guardrails.alerts.lease import PosterLease
from celery_guardrails.alerts.outbox import Delivery, Poster
from celery_guardrails.alerts.render import Style
from celery_guardrails.alerts.rules import Rules
from celery_guardrails.alerts.sinks.log import LogSink
from celery_guardrails.alerts.sinks.several import Sinks
from celery_guardrails.alerts.sinks.sink import Sink
from celery_guardrails.alerts.stored import read_group
from celery_guardrails.errors import UNNAMED_APP
from celery_guardrails.policy.alert import TaskAlerts
from celery_guardrails.settings import AlertSettings
from celery_guardrails.store import alert, silence
from celery_guardrails.store.alert import GroupRow
from celery_guardrails.store.alert_change import GroupChange, apply_changes
from celery_guardrails.store.engine import Store
from celery_guardrails.store.outbox import OutboxRow
from celery_guardrails.store.probe import raise_if_away
from celery_guardrails.store.silence import Silence
from celery_guardrails.text import one_line

__all__ = ["AlertService", "Report"]

_logger = logging.getLogger(__name__)
_BATCH = 1000
_LIVE = (GroupState.PENDING.value, *(state.value for state in LIVE))
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
    ref_ids: tuple[str, ...] = ()
    happened: tuple[EngineEvent, ...] = ()


@dataclass(frozen=True)
class _Stepped:
    """A loaded group after what happened to it, and what it notifies."""

    loaded: _Loaded
    group: AlertGroup
    intents: tuple[Intent, ...] = ()


def _no_word(task: str) -> tuple[TaskAlerts | None, timedelta]:
    """What a task says about its alerts where its policy is not known."""
    return None, timedelta(0)


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
        task_alerts: what a task's policy says about its alerts, and how long its retries may take.
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
        task_alerts: Callable[[str], tuple[TaskAlerts | None, timedelta]] = _no_word,
    ) -> None:
        self._store = store
        self._rules = Rules.from_settings(settings, can_edit=sink.can_edit)
        self._task_alerts = task_alerts
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
            loaded, silences, more = self._load(now, flush)
            stepped = self._step(loaded, now)
            # Only the last batch notifies, so that the first message counts all that came together.
            stepped = stepped if more else self._notify(stepped, silences, now, flush)
            changes = [_change(one, now) for one in stepped if one.group != one.loaded.group]
            stored = self._save(changes, now) if changes else 0
            if stored is None:
                # Another guardian was quicker: it has counted these events, or the next run does.
                break
            events, queued = events + sum(len(one.ref_ids) for one in loaded), queued + stored
        delivery = self.poster.deliver_once(now)
        dues = [delivery.next_due, *(next_due(one.group, now, self._rules_of(one.group)) for one in stepped)]
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

    def _rules_of(self, group: AlertGroup) -> Rules:
        word, window = self._task_alerts(group.task)
        return self._rules.of_task(word, window)

    def _step(self, loaded: Sequence[_Loaded], now: datetime) -> list[_Stepped]:
        """The groups after what happened; one whose step fails is left out, and the others go on."""
        return [done for one in loaded if (done := self._act(_Stepped(one, one.group), one.happened, now))]

    def _notify(
        self, stepped: Sequence[_Stepped], silences: Sequence[Silence], now: datetime, flush: bool
    ) -> list[_Stepped]:
        """The groups after a tick; those that open in a storm are in their environment's digest."""
        groups = [one.group for one in stepped]
        tick_of = ticks(groups, now, self._rules_of, silences, flush=flush)
        digests = [one for one in stepped if one.group.members is not None]
        plain = [one for one in stepped if one.group.members is None]
        ticked = [done for one in plain if (done := self._act(one, [tick_of[one.group.key]], now))]
        for environment in sorted({one.group.environment for one in ticked if one.group.digested}):
            if digest_key(environment) not in {one.group.key for one in digests}:
                digests.append(self._new_digest(environment))
        for one in digests:
            tick = tick_of.get(one.group.key, Tick(flush))
            happened = digest_events((done.group for done in ticked), one.group.environment, tick)
            if (digest := self._act(one, happened, now)) is not None:
                ticked.append(digest)
        return ticked

    def _act(self, one: _Stepped, happened: Sequence[EngineEvent], now: datetime) -> _Stepped | None:
        """The group after these events; `None`: a step failed."""
        group, intents = one.group, list(one.intents)
        try:
            rules = self._rules_of(group)
            for event in happened:
                group, further = step(group, event, now, rules)
                intents += further
        except Exception as exc:  # noqa: BLE001 a fault in one group must not stop the others
            self._leave_out(one.group.key, one.loaded.ref_ids, exc)
            return None
        return _Stepped(one.loaded, group, tuple(intents))

    def _new_digest(self, environment: str) -> _Stepped:
        """The digest of an environment that had none of late: as it is stored, or a new one."""
        with self._store.read() as conn:
            rows = alert.load_groups(conn, keys=[digest_key(environment)])
        row = rows[0] if rows else None
        group = self._group(row, []) or replace(AlertGroup.digest(environment), period=row.period + 1 if row else 1)
        return _Stepped(_Loaded(group, row), group)

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

    def _load(self, now: datetime, flush: bool) -> tuple[list[_Loaded], list[Silence], bool]:
        """Every live group and every group with new events; the silences that last; and whether more events wait."""
        with self._store.read() as conn:
            silences = silence.lasting(conn, now)
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
                if (events or flush or self._recount_due(key, now)) and has_letters(group):
                    happened += became(conn, group, now, flush=flush)
                    self._recounted_at[key] = now
                loaded.append(_Loaded(group, row, tuple(event.ref_id for event in events), tuple(happened)))
        if broken:
            with self._store.begin() as conn:
                alert.mark_processed(conn, broken, "")
        self._recounted_at = {key: at for key, at in self._recounted_at.items() if key in stored or key in by_key}
        return loaded, silences, len(batch) == _BATCH

    def _group(self, row: GroupRow | None, events: Sequence[AlertEvent | Condition]) -> AlertGroup | None:
        """The group as it is stored, or a new one; `None`: it cannot be read, and there are no new events."""
        if row is not None:
            try:
                return read_group(row)
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
) -> tuple[dict[str, list[AlertEvent | Condition]], list[str]]:
    """The events by group, and the ids of those that cannot be read."""
    by_key: dict[str, list[AlertEvent | Condition]] = {}
    broken = []
    for ref_id, payload in batch:
        try:
            event = read_event(payload)
        except ValueError as error:
            _logger.warning("the alert event %s cannot be read, so no alert counts it: %s", ref_id, error)
            broken.append(ref_id)
        else:
            by_key.setdefault(group_key(event, group_by), []).append(event)
    return by_key, broken


def _change(one: _Stepped, now: datetime) -> GroupChange:
    return change_of(one.group, one.loaded.row, one.intents, now, one.loaded.ref_ids)


def change_of(
    group: AlertGroup, row: GroupRow | None, intents: Sequence[Intent], now: datetime, ref_ids: Sequence[str] = ()
) -> GroupChange:
    """What to store of a group after a step.

    Args:
        group: the group.
        row: it as it was loaded; `None`: it is new.
        intents: what it notifies.
        now: this instant.
        ref_ids: the events that it counted.
    """
    stored = GroupRow(
        key=group.key,
        environment=group.environment,
        task=group.task,
        state=group.state.value,
        period=group.period,
        baseline=group.base,
        data=group.as_payload(),
        version=row.version if row else 0,
    )
    return GroupChange(stored, tuple(ref_ids), tuple(_notification(group, intent, now) for intent in intents))


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


def _join(first: Report, later: Report) -> Report:
    delivery = replace(
        later.delivery,
        sent=first.delivery.sent + later.delivery.sent,
        failed=first.delivery.failed + later.delivery.failed,
    )
    return Report(first.events + later.events, first.queued + later.queued, delivery, later.next_due)
