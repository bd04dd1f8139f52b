"""Leases for work that only one guardian may do, and the list of guardians that are alive.

Owns the tables `lease` and `guardian`. A lease carries a fence, a number that grows whenever another guardian takes the
lease: a write with an old fence is recognised, whatever the clocks of two machines say. Reads no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Table, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from celery_guardrails.store.table import guardian, lease

__all__ = [
    "ALIVE",
    "GuardianSeen",
    "Lease",
    "acquire",
    "expires_at",
    "forget",
    "guardians",
    "heartbeat",
    "holds",
    "prolong",
    "release",
    "renew",
]

ALIVE = timedelta(seconds=30)
"""A guardian that was seen within this time counts as alive: six of its heartbeats."""
_ANYBODY = "any guardian"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of `owner` to do `name` until `expires_at`."""

    name: str
    owner: str
    fence: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class GuardianSeen:
    """A guardian, and when it gave its last sign of life."""

    id: str
    started_at: datetime
    seen_at: datetime
    host: str
    pid: int


def acquire(conn: Connection, name: str, owner: str, ttl: timedelta, now: datetime) -> Lease | None:
    """Take a lease that is free or has expired, or prolong one's own lease.

    Args:
        conn: a transaction.
        name: what the lease is for.
        owner: who takes it, unique among guardians.
        ttl: for how long.
        now: this instant, by the taker's clock.

    Returns:
        The lease, or `None` while somebody else holds it.
    """
    until = now + ttl
    own = update(lease).where(lease.c.name == name, lease.c.owner == owner, lease.c.expires_at > now)
    fence = conn.execute(own.values(expires_at=until).returning(lease.c.fence)).scalar()
    if fence is None:
        values = {"name": name, "owner": owner, "fence": 1, "expires_at": until}
        taken = _insert(conn, lease)(values).on_conflict_do_update(
            index_elements=[lease.c.name],
            set_={"owner": owner, "fence": lease.c.fence + 1, "expires_at": until},
            where=lease.c.expires_at <= now,
        )
        fence = conn.execute(taken.returning(lease.c.fence)).scalar()
    return None if fence is None else Lease(name, owner, fence, until)


def prolong(conn: Connection, name: str, ttl: timedelta, now: datetime) -> None:
    """Note that something was seen or done, for so long; every guardian may, and none owns it."""
    acquire(conn, name, _ANYBODY, ttl, now)


def expires_at(conn: Connection, name: str) -> datetime | None:
    """Until when a lease lasts, or lasted; `None`: nobody ever took it."""
    found: datetime | None = conn.execute(select(lease.c.expires_at).where(lease.c.name == name)).scalar()
    return found


def renew(conn: Connection, held: Lease, ttl: timedelta, now: datetime) -> Lease | None:
    """Prolong a lease, even an expired one that nobody has taken since; `None` if another guardian has it."""
    until = now + ttl
    done = conn.execute(update(lease).where(*_is(held)).values(expires_at=until)).rowcount
    return Lease(held.name, held.owner, held.fence, until) if done else None


def release(conn: Connection, held: Lease, now: datetime) -> None:
    """Give a lease back, so that the next guardian need not wait; harmless if it is lost already."""
    conn.execute(update(lease).where(*_is(held)).values(expires_at=now))


def holds(conn: Connection, held: Lease) -> bool:
    """Whether nobody has taken this lease over; call it in the transaction that writes under the lease."""
    return conn.execute(select(lease.c.fence).where(*_is(held)).with_for_update()).scalar() is not None


def heartbeat(conn: Connection, guardian_id: str, started_at: datetime, now: datetime, host: str, pid: int) -> None:
    """Note that a guardian is alive."""
    values = {"id": guardian_id, "started_at": started_at, "seen_at": now, "host": host, "pid": pid}
    statement = _insert(conn, guardian)(values)
    conn.execute(statement.on_conflict_do_update(index_elements=[guardian.c.id], set_={"seen_at": now}))


def forget(conn: Connection, guardian_id: str) -> None:
    """Remove a guardian that stops; `retention.py` removes guardians that are long dead."""
    conn.execute(delete(guardian).where(guardian.c.id == guardian_id))


def guardians(conn: Connection, *, seen_since: datetime | None = None) -> list[GuardianSeen]:
    """The guardians seen since an instant (`None`: ever), the last seen first."""
    statement = select(guardian)
    if seen_since is not None:
        statement = statement.where(guardian.c.seen_at >= seen_since)
    rows = conn.execute(statement.order_by(guardian.c.seen_at.desc(), guardian.c.id)).mappings()
    return [GuardianSeen(**row) for row in rows]


def _is(held: Lease) -> Any:
    return lease.c.name == held.name, lease.c.owner == held.owner, lease.c.fence == held.fence


def _insert(conn: Connection, table: Table) -> Any:
    insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    return insert(table).values
