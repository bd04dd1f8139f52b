"""Signs of life of the alerts, for metrics and `status`: how many are open, and whether they reach their sink.

Reads the alerts' tables; their queries for the alert service are in `alert.py` and `outbox.py`.
"""
# on its own: reads two tables of the alerts, neither of whose modules may know the other

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from celery_guardrails.store.alert import alert_group
from celery_guardrails.store.outbox import alert_outbox

__all__ = ["alerts_by_state", "open_alerts", "sink_is_up"]

_PATIENCE = timedelta(minutes=2)
_SEVERITIES = ("critical", "error", "warning")


def open_alerts(conn: Connection) -> dict[str, int]:
    """How many alerts are open, and not acknowledged, by severity: `critical`, `error`, `warning`, or `other`."""
    found: dict[str, int] = {}
    for data in conn.execute(select(alert_group.c.data).where(alert_group.c.state == "open")).scalars():
        given = str(data.get("severity"))
        severity = given if given in _SEVERITIES else "other"
        found[severity] = found.get(severity, 0) + 1
    return found


def alerts_by_state(conn: Connection, environment: str) -> dict[str, int]:
    """How many alerts of an environment are in each state."""
    query = select(alert_group.c.state).where(alert_group.c.environment == environment)
    found: dict[str, int] = {}
    for state in conn.execute(query).scalars():
        found[state] = found.get(state, 0) + 1
    return found


def sink_is_up(conn: Connection, now: datetime) -> bool:
    """Whether no notification is held up: one that was tried, failed, and is over two minutes old."""
    held = select(alert_outbox.c.id).where(
        alert_outbox.c.status.in_(("pending", "unknown")),
        alert_outbox.c.attempts > 0,
        alert_outbox.c.created_at < now - _PATIENCE,
    )
    return conn.execute(held.limit(1)).first() is None
