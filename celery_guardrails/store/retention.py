"""Rows that the archive has kept long enough: which rows are due, and their removal in small batches.

Owns every DELETE of old rows: of `dead_letter` (with its deaths and values), `audit`, the alerts' events, notifications
and groups, `guardian`, and the figures. Work that was put back and has not ended (`requeued`) is never due, nor is a
notification that is not sent yet. It must not know who decides how long rows are kept, nor when this is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Table, and_, delete, func, insert, select, true

from celery_guardrails.store.alert import alert_event, alert_group
from celery_guardrails.store.figure import HOUR, MINUTE
from celery_guardrails.store.figure_table import figure, figure_death, figure_letter, figure_summary, figure_task
from celery_guardrails.store.outbox import alert_outbox
from celery_guardrails.store.record import State
from celery_guardrails.store.table import audit, audit_cut, dead_letter, guardian

__all__ = [
    "ALERT_EVENTS",
    "ALERT_GROUPS",
    "AUDIT",
    "COUNTED_DEATHS",
    "FIGURES",
    "GUARDIANS",
    "HOUR_FIGURES",
    "KINDS",
    "LETTER_FIGURES",
    "MINUTE_FIGURES",
    "NOTIFICATIONS",
    "SUMMARIES",
    "TASK_FIGURES",
    "due",
    "remove",
]

AUDIT = "audit"
ALERT_EVENTS = "alert_events"
NOTIFICATIONS = "notifications"
ALERT_GROUPS = "alert_groups"
GUARDIANS = "guardians"
MINUTE_FIGURES, HOUR_FIGURES = "minute_figures", "hour_figures"
TASK_FIGURES, LETTER_FIGURES = "task_figures", "letter_figures"
SUMMARIES, COUNTED_DEATHS = "summaries", "counted_deaths"
FIGURES = (MINUTE_FIGURES, HOUR_FIGURES, TASK_FIGURES, LETTER_FIGURES, SUMMARIES, COUNTED_DEATHS)
"""The kinds that hold figures and no letters: their removal is routine, and leaves no audit entry."""
_OVER = ("idle", "resolved")
_SAID = ("sent", "failed")
_UNDECIDED = (State.DEAD.value, State.REQUEUED.value)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Rows of one kind: the column of their key, the column from which their age counts, and which may be removed."""

    table: Table
    key: Column[Any]
    at: Column[datetime]
    may_go: ColumnElement[bool]

    def is_due(self, before: datetime) -> ColumnElement[bool]:
        return and_(self.may_go, self.at < before)


def _of_state(state: State, at: Column[datetime]) -> _Kind:
    return _Kind(dead_letter, dead_letter.c.id, at, dead_letter.c.state == state.value)


def _figures(resolution: timedelta) -> _Kind:
    return _Kind(figure, figure.c.id, figure.c.start_at, figure.c.resolution == int(resolution.total_seconds()))


def _forgotten_groups() -> ColumnElement[bool]:
    """Groups that are over, without notifications, and without letters that still need a decision."""
    said = select(alert_outbox.c.id).where(alert_outbox.c.group_key == alert_group.c.key)
    undecided = select(dead_letter.c.id).where(
        dead_letter.c.task == alert_group.c.task,
        dead_letter.c.environment == alert_group.c.environment,
        dead_letter.c.state.in_(_UNDECIDED),
    )
    return and_(alert_group.c.state.in_(_OVER), ~said.exists(), ~undecided.exists())


_KINDS = {
    State.DEAD.value: _of_state(State.DEAD, dead_letter.c.died_at),
    State.RECOVERED.value: _of_state(State.RECOVERED, dead_letter.c.resolved_at),
    State.DISCARDED.value: _of_state(State.DISCARDED, dead_letter.c.resolved_at),
    AUDIT: _Kind(audit, audit.c.seq, audit.c.at, true()),
    # if the broker delivers a letter again after this removal, it is counted again
    ALERT_EVENTS: _Kind(
        alert_event, alert_event.c.ref_id, alert_event.c.recorded_at, alert_event.c.processed.is_(True)
    ),
    NOTIFICATIONS: _Kind(alert_outbox, alert_outbox.c.id, alert_outbox.c.created_at, alert_outbox.c.status.in_(_SAID)),
    ALERT_GROUPS: _Kind(alert_group, alert_group.c.key, alert_group.c.updated_at, _forgotten_groups()),
    GUARDIANS: _Kind(guardian, guardian.c.id, guardian.c.seen_at, true()),
    MINUTE_FIGURES: _figures(MINUTE),
    HOUR_FIGURES: _figures(HOUR),
    TASK_FIGURES: _Kind(figure_task, figure_task.c.id, figure_task.c.updated_at, true()),
    LETTER_FIGURES: _Kind(figure_letter, figure_letter.c.id, figure_letter.c.updated_at, true()),
    SUMMARIES: _Kind(figure_summary, figure_summary.c.id, figure_summary.c.at, true()),
    COUNTED_DEATHS: _Kind(figure_death, figure_death.c.id, figure_death.c.counted_at, true()),
}
KINDS = tuple(_KINDS)
"""The kinds of rows, each kept for a time of its own, in the order of their removal."""


def due(conn: Connection, keep: Mapping[str, timedelta | None], now: datetime) -> dict[str, int]:
    """How many rows of each kind are due; kinds that are kept for ever are left out."""
    counts = {}
    for name, kind in _KINDS.items():
        if (age := keep.get(name)) is not None:
            query = select(func.count()).select_from(kind.table).where(kind.is_due(now - age))
            counts[name] = conn.execute(query).scalar_one()
    return counts


def remove(conn: Connection, name: str, before: datetime, most: int) -> int:
    """Remove rows of a kind that are older than an instant, the oldest first; returns how many.

    Args:
        conn: a transaction.
        name: one of `KINDS`. The age of `dead` letters counts from the latest death, of `recovered` and `discarded`
            letters from that change, of alert groups from their last change, of guardians from their last sign of life,
            of figures from the start of their minute or hour, or from their last change.
        before: younger rows stay.
        most: at most so many.
    """
    kind = _KINDS[name]
    wanted = select(kind.key).where(kind.is_due(before)).order_by(kind.at).limit(most)
    if conn.dialect.name == "postgresql" and kind.table is not audit:
        wanted = wanted.with_for_update(skip_locked=True)  # a row that somebody changes just now is for the next pass
    keys = list(conn.execute(wanted).scalars())
    if not keys:
        return 0
    if kind.table is not audit:
        return conn.execute(delete(kind.table).where(kind.key.in_(keys))).rowcount
    # The database refuses every other removal: an entry must be older than the instant in `audit_cut`, and that table
    # is empty except within this transaction.
    conn.execute(insert(audit_cut).values(before=before))
    removed = conn.execute(delete(audit).where(kind.key.in_(keys))).rowcount
    conn.execute(delete(audit_cut))
    return removed
