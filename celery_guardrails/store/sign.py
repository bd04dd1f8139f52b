"""How many alerts are in which state, for metrics and `status`.

The queries for the alert service are in `alert.py`.
"""

from __future__ import annotations

from sqlalchemy import Connection, select

from celery_guardrails.store.alert import alert_group

__all__ = ["alerts_by_state", "open_alerts"]

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
