"""What a notification says, and where it goes: the message made of its group as the group is when it is sent.

Owns `Job`, the choice between post, edit and reply, and the remarks of the poster. It must not send anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from celery_guardrails.alerts.brief import render_in_brief
from celery_guardrails.alerts.complaint import Complaints
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.alerts.intent import Kind, Notice
from celery_guardrails.alerts.render import Rendered, Style, render, render_reply
from celery_guardrails.alerts.sinks.alert import Alert
from celery_guardrails.alerts.sinks.several import Place, Sinks
from celery_guardrails.alerts.sinks.sink import Message, Posted
from celery_guardrails.store import alert, outbox
from celery_guardrails.store.alert import GroupRow
from celery_guardrails.store.engine import Store
from celery_guardrails.store.outbox import OutboxRow
from celery_guardrails.text import one_line, unmentioned

__all__ = ["Composer", "Job"]

_FIELD = 500
_ONLY_IN_THREAD = frozenset(
    notice.value for notice in (Notice.ACKNOWLEDGED, Notice.UNACKNOWLEDGED, Notice.SILENCED, Notice.REQUEUED)
)
"""What a sink without threads is not told: the channel need not know it."""


@dataclass(frozen=True)
class Job:
    """One notification with its group, its message, and what the sink has to do (`action`)."""

    row: OutboxRow
    group_row: GroupRow
    group: AlertGroup | None
    rendered: Rendered
    action: Kind

    @property
    def posted(self) -> Posted:
        """Where the group's message is."""
        return Posted(self.group_row.message_ts or "", self.group_row.channel or "")

    def message(self) -> Message:
        """What the sink gets."""
        uid = self.row.post_uid or ""
        message = self.rendered.message(uid, as_plain_text=bool(self.row.notes.get("plain")))
        return replace(message, alert=_alert(message, self.row, self.group_row, self.group))


class Composer:
    """Makes messages of notifications.

    Args:
        store: the archive.
        style: what messages say beside the figures.
        complaints: logs, once for each group, that it can only be shown in brief.
    """

    def __init__(self, store: Store, style: Style, complaints: Complaints) -> None:
        self._store = store
        self._style = style
        self._complaints = complaints

    def compose(self, row: OutboxRow, now: datetime, *, can_edit: bool) -> Job | None:
        """The message of a notification as its group is now; `None`: there is nothing to send any more.

        Args:
            row: the notification.
            now: this instant.
            can_edit: whether its sink can edit and reply. Where it cannot, a reply is a post of its own.
        """
        with self._store.read() as conn:
            found = alert.load_groups(conn, keys=[row.group_key])
        if not found or found[0].period != row.period:
            return None
        action = _action(row, found[0], can_edit=can_edit)
        if action is None:
            return None
        group = self._read(found[0])
        return Job(row, found[0], group, self._rendered(row, found[0], group, action, now), action)

    def place(self, row: OutboxRow, sinks: Sinks) -> Place:
        """Where a period's messages go: where the earlier ones are, else where its group is routed to now."""
        with self._store.read() as conn:
            noted = outbox.placed(conn, row.group_key, row.period)
            found = alert.load_groups(conn, keys=[row.group_key])
        if noted is not None and noted[0] in sinks.by_name:
            return Place(str(noted[0]), noted[1])
        same = found and found[0].period == row.period
        if not same or (noted is None and found[0].message_ts is not None):
            return Place(sinks.default.name)  # posted before there were routes
        group = self._read(found[0])
        if group is None:
            return sinks.route(task=found[0].task, owner=None, severity="error")
        return sinks.route(task=group.task, owner=group.owner, severity=group.severity)

    def _read(self, row: GroupRow) -> AlertGroup | None:
        try:
            return AlertGroup.from_payload(row.data)
        except ValueError as exc:
            self._complain(row, exc)
            return None

    def _rendered(
        self, row: OutboxRow, group_row: GroupRow, group: AlertGroup | None, action: Kind, now: datetime
    ) -> Rendered:
        """Its message; a brief one where the group cannot be rendered."""
        brief = (Kind.REPLY, Kind.ESCALATION)
        as_reply = action is Kind.REPLY or row.kind == Kind.ESCALATION or row.notes.get("of") in brief
        if group is not None:
            try:
                if as_reply:
                    return render_reply(group, Notice(row.notice), row.facts, self._style, _remarks(row))
                return render(group, now, self._style, _remarks(row))
            except Exception as exc:  # noqa: BLE001 one group that fails must not hold up the others
                self._complain(group_row, exc)
        return render_in_brief(group_row.task, group_row.environment, self._style)

    def _complain(self, row: GroupRow, exc: Exception) -> None:
        self._complaints.once(row.key, "the alert of %s is shown in brief: %s", one_line(row.key), exc)


def _action(row: OutboxRow, group: GroupRow, *, can_edit: bool) -> Kind | None:
    if row.kind in (Kind.POST, Kind.ESCALATION, "fallback") or row.notes.get("repost"):
        return Kind.POST
    if group.message_ts is not None and can_edit:
        return Kind(row.kind)
    return Kind.POST if row.kind == Kind.REPLY and row.notice not in _ONLY_IN_THREAD else None


def _remarks(row: OutboxRow) -> tuple[str, ...]:
    remarks = []
    if row.kind == "fallback":
        remarks.append(f"Posted here because {row.notes.get('because')}")
    elif row.notes.get("because"):
        remarks.append(f"Posted here because its own channel does not take it: {row.notes['because']}")
    if row.notes.get("duplicate"):
        remarks.append("Possible duplicate: the first try may have arrived")
    return tuple(remarks)


def _alert(message: Message, row: OutboxRow, group_row: GroupRow, group: AlertGroup | None) -> Alert:
    text = unmentioned(message.plain)
    title = text.partition("\n")[0]
    if group is None:
        return Alert(message.post_uid, title, text, "", row.notice, group_row.task, group_row.environment)

    def shown(value: str | None) -> str | None:
        return None if value is None else unmentioned(one_line(value)[:_FIELD])

    return Alert(
        uid=message.post_uid,
        title=title,
        text=text,
        id=group.alert_id,
        notice=row.notice,
        task=shown(group.task) or "",
        environment=shown(group.environment) or "",
        severity=group.severity,
        owner=shown(group.owner),
        runbook=shown(group.runbook),
        letters=group.total,
        reasons=dict(group.reasons),
        first_at=group.first_at,
        last_at=group.last_at,
    )
