"""Leases, heartbeats and the audit trail, as the database keeps them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from celery_guardrails.errors import StoreError
from celery_guardrails.store import audit, lease
from celery_guardrails.store.engine import Store
from tests.contract.store.conftest import NOW

TTL = timedelta(seconds=30)
SECOND = timedelta(seconds=1)


def acquire(store: Store, owner: str, now=NOW) -> lease.Lease | None:
    with store.begin() as conn:
        return lease.acquire(conn, "poster", owner, TTL, now)


def test_a_lease_has_one_owner_until_it_expires(store: Store) -> None:
    first = acquire(store, "a")
    assert first == lease.Lease("poster", "a", 1, NOW + TTL)
    assert acquire(store, "b", NOW + TTL - SECOND) is None
    second = acquire(store, "b", NOW + TTL)
    assert second is not None
    assert second.fence == 2
    with store.begin() as conn:
        assert lease.holds(conn, second)
        assert not lease.holds(conn, first)
        assert lease.renew(conn, first, TTL, NOW + TTL) is None


def test_an_owner_prolongs_its_lease_under_the_same_fence(store: Store) -> None:
    held = acquire(store, "a")
    again = acquire(store, "a", NOW + SECOND)
    assert held is not None
    assert again == lease.Lease("poster", "a", held.fence, NOW + SECOND + TTL)
    with store.begin() as conn:
        renewed = lease.renew(conn, again, TTL, NOW + 2 * SECOND)
    assert renewed is not None
    assert (renewed.fence, renewed.expires_at) == (held.fence, NOW + 2 * SECOND + TTL)
    assert acquire(store, "b", NOW + SECOND + TTL) is None


def test_an_owner_whose_lease_expired_gets_a_new_fence(store: Store) -> None:
    acquire(store, "a")
    again = acquire(store, "a", NOW + TTL)
    assert again is not None
    assert again.fence == 2


def test_a_released_lease_is_free_at_once_and_its_fence_is_not_used_again(store: Store) -> None:
    held = acquire(store, "a")
    assert held is not None
    with store.begin() as conn:
        lease.release(conn, held, NOW)
    taken = acquire(store, "b")
    assert taken is not None
    assert taken.fence == 2
    with store.begin() as conn:
        lease.release(conn, held, NOW)
        assert lease.holds(conn, taken)
    assert acquire(store, "c") is None


def test_guardians_are_seen_and_forgotten(store: Store) -> None:
    with store.begin() as conn:
        lease.heartbeat(conn, "one", NOW, NOW, "host", 1)
        lease.heartbeat(conn, "two", NOW, NOW + SECOND, "host", 2)
        lease.heartbeat(conn, "one", NOW, NOW + 2 * SECOND, "host", 1)
        seen = lease.guardians(conn)
        assert [(each.id, each.seen_at, each.started_at) for each in seen] == [
            ("one", NOW + 2 * SECOND, NOW), ("two", NOW + SECOND, NOW),
        ]  # fmt: skip
        assert [each.id for each in lease.guardians(conn, seen_since=NOW + 2 * SECOND)] == ["one"]
        lease.forget(conn, "two")
        assert [each.id for each in lease.guardians(conn)] == ["one"]
        lease.forget(conn, "one")
        assert lease.guardians(conn) == []


def test_the_audit_trail_reads_back_newest_first(store: Store) -> None:
    made = [
        audit.AuditEntry(NOW, "ann", "discard", f"letter-{n}", "old", {"state": "dead"}, None, operation_id="op")
        for n in range(3)
    ]
    with store.begin() as conn:
        for entry in made:
            audit.append(conn, entry)
        audit.append(conn, audit.AuditEntry(NOW, "bob", "restore", "letter-0", "needed"))
        newest = audit.entries(conn, limit=2)
        assert [entry.target for entry in newest] == ["letter-0", "letter-2"]
        assert (newest[1].before, newest[1].after, newest[1].operation_id) == ({"state": "dead"}, None, "op")
        assert [entry.action for entry in audit.entries(conn, target="letter-0")] == ["restore", "discard"]
        assert [entry.actor for entry in audit.entries(conn)] == ["bob", "ann", "ann", "ann"]


@pytest.mark.parametrize(
    "statement",
    ["UPDATE guardrails_audit SET actor = 'nobody'", "DELETE FROM guardrails_audit", "TRUNCATE guardrails_audit"],
)
def test_the_audit_trail_cannot_be_changed(store: Store, statement: str) -> None:
    with store.begin() as conn:
        audit.append(conn, audit.AuditEntry(NOW, "ann", "discard", "letter", "old"))
    if statement.startswith("TRUNCATE") and store.engine.dialect.name == "sqlite":
        return  # SQLite has no such statement
    with pytest.raises(StoreError, match="append-only"), store.begin() as conn:
        conn.execute(text(statement))
    with store.read() as conn:
        assert len(audit.entries(conn)) == 1
