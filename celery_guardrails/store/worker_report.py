"""When workers last sent figures, by environment, and until when the effects of their absence are no alerts.

Both are rows of the table `lease`: one that each report prolongs, one that each look at the absence prolongs. Reads no
clock. It must not know what a report says.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import Connection

from celery_guardrails.store import lease
from celery_guardrails.store.column import cut

__all__ = ["AFTERWARDS", "SILENT", "is_muted", "last", "mute", "note"]

SILENT = timedelta(minutes=5)
"""Workers send a report each minute at least: without one for so long, there is no worker."""
AFTERWARDS = timedelta(minutes=30)
"""How long after an absence figures still show it: the longest span that a signal looks at."""


def note(conn: Connection, environments: Iterable[str], now: datetime) -> None:
    """Note that workers of these environments have reported.

    Args:
        conn: a transaction of `Store.begin`.
        environments: as in the settings.
        now: this instant, by the guardian's clock: those of the workers may be wrong.
    """
    for environment in sorted(set(environments)):
        lease.prolong(conn, _reports(environment), SILENT, now)


def last(conn: Connection, environment: str) -> datetime | None:
    """When a worker of the environment last reported; `None`: none ever did."""
    until = lease.expires_at(conn, _reports(environment))
    return None if until is None else until - SILENT


def mute(conn: Connection, environment: str, now: datetime) -> None:
    """Until 30 minutes from now, late starts and too little work are no alerts of their own.

    Args:
        conn: a transaction of `Store.begin`.
        environment: as in the settings.
        now: this instant.
    """
    lease.prolong(conn, _effects(environment), AFTERWARDS, now)


def is_muted(conn: Connection, environment: str, now: datetime) -> bool:
    """Whether `mute` was called within the last 30 minutes."""
    until = lease.expires_at(conn, _effects(environment))
    return until is not None and now < until


def _reports(environment: str) -> str:
    return f"reports of {cut(environment)}"


def _effects(environment: str) -> str:
    return f"absence from {cut(environment)}"
