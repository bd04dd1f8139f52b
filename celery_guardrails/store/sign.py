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
    """How many alerts of an environment are in each state; of those that are not resolved, `silenced` are silenced."""
    query = select(alert_group.c.state, alert_group.c.data).where(alert_group.c.environment == environment)
    found: dict[str, int] = {}
    for state, data in conn.execute(query):
        silenced = state != "resolved" and isinstance(data, dict) and data.get("silenced_until") is not None
        for each in (state, "silenced") if silenced else (state,):
            found[each] = found.get(each, 0) + 1
    return found
