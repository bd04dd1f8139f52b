"""Retention: what is due goes, with all that belongs to it; what is not stays, and the trail says who removed what."""

from __future__ import annotations

import os
import threading
from datetime import timedelta

import pytest
from sqlalchemy import func, select, text, update

from celery_guardrails.errors import StoreError
from celery_guardrails.guardian.pruning import Pruning
from celery_guardrails.recovery import transition
from celery_guardrails.recovery.retention import prune_pass
from celery_guardrails.store import audit, lease, retention
from celery_guardrails.store.alert import alert_event, alert_group
from celery_guardrails.store.outbox import alert_outbox
from celery_guardrails.store.table import audit as audit_table
from celery_guardrails.store.table import audit_cut, dead_letter, death, guardian, letter_argument

DAY = timedelta(days=1)
KEEP = {"dead": 90 * DAY, "recovered": 14 * DAY, "discarded": 30 * DAY, "audit": 400 * DAY}


def stopped() -> float:
    """A timer that stands still: how fast this machine deletes is not the question."""
    return 0.0


def rows(store, table):
    with store.read() as conn:
        return conn.execute(select(func.count()).select_from(table)).scalar_one()


def aged(store, letter_id, **values):
    with store.begin() as conn:
        conn.execute(update(dead_letter).where(dead_letter.c.id == letter_id).values(**values))


def entry(at, target="x"):
    return audit.AuditEntry(at, "ada", "requeue", target, "because")


def test_each_state_is_kept_for_a_time_of_its_own(mortuary):
    store, now = mortuary.store, mortuary.now
    kept, gone = set(), set()
    for state, days in (("dead", 90), ("recovered", 14), ("discarded", 30)):
        for late in (True, False):
            letter = mortuary.letter(correlation={"order_id": "4711"})
            mortuary.archive(letter)
            at = now - timedelta(days=days, seconds=1 if late else -1)
            resolved = {"died_at": at} if state == "dead" else {"resolved_at": at, "died_at": now - 80 * DAY}
            aged(store, letter.id, state=state, **resolved)
            (gone if late else kept).add(letter.id)
    requeued = mortuary.letter()
    mortuary.archive(requeued)
    aged(store, requeued.id, state="requeued", died_at=now - 1000 * DAY)
    with store.read() as conn:
        assert retention.due(conn, KEEP, now) == {"dead": 1, "recovered": 1, "discarded": 1, "audit": 0}
    pruned = prune_pass(store, KEEP, "guardian", now, timer=stopped)
    assert (dict(pruned.counts), pruned.more) == ({"dead": 1, "recovered": 1, "discarded": 1}, False)
    with store.read() as conn:
        assert set(conn.execute(select(dead_letter.c.id)).scalars()) == kept | {requeued.id}
        for table in (death, letter_argument):
            assert set(conn.execute(select(table.c.letter_id)).scalars()) <= kept | {requeued.id}
        newest = audit.entries(conn)[0]
    assert (newest.actor, newest.action, newest.after) == ("guardian", "prune", dict(pruned.counts))


def test_what_is_kept_for_ever_stays(mortuary):
    letter = mortuary.letter()
    mortuary.archive(letter)
    aged(mortuary.store, letter.id, died_at=mortuary.now - 10_000 * DAY)
    keep = dict.fromkeys(KEEP)
    assert prune_pass(mortuary.store, keep, "guardian", mortuary.now, timer=stopped).total == 0
    with mortuary.store.read() as conn:
        assert retention.due(conn, keep, mortuary.now) == {}


def test_nothing_due_leaves_no_entry(mortuary):
    mortuary.archive(mortuary.letter())
    prune_pass(mortuary.store, KEEP, "guardian", mortuary.now, timer=stopped)
    with mortuary.store.read() as conn:
        assert audit.entries(conn) == []


def test_the_audit_trail_is_pruned_by_its_own_age_and_by_nothing_else(mortuary):
    store, now = mortuary.store, mortuary.now
    with store.begin() as conn:
        for days in (401, 399, 0):
            audit.append(conn, entry(now - days * DAY, f"{days} days"))
    assert dict(prune_pass(store, KEEP, "guardian", now, timer=stopped).counts) == {"audit": 1}
    with store.read() as conn:
        assert [e.target for e in audit.entries(conn)] == ["archive", "0 days", "399 days"]
    assert rows(store, audit_cut) == 0
    for statement in ("DELETE FROM guardrails_audit", "UPDATE guardrails_audit SET actor = 'eve'"):
        with pytest.raises(StoreError, match="append-only"), store.begin() as conn:
            conn.execute(text(statement))
    with pytest.raises(StoreError, match="append-only"):
        delete_all(store, now - 399 * DAY)  # younger entries stay even then
    assert rows(store, audit_table) == 3


def delete_all(store, before):
    with store.begin() as conn:
        conn.execute(audit_cut.insert().values(before=before))
        conn.execute(text("DELETE FROM guardrails_audit"))


def test_a_pass_is_bounded_and_says_that_there_is_more(mortuary):
    mortuary.archive(*[mortuary.letter(died_at=mortuary.now - 91 * DAY) for _ in range(250)])
    ticks = iter(range(100))
    first = prune_pass(mortuary.store, KEEP, "guardian", mortuary.now, seconds=1.5, timer=lambda: float(next(ticks)))
    assert (first.total, first.more) == (50, True)
    rest = prune_pass(mortuary.store, KEEP, "guardian", mortuary.now, timer=stopped)
    assert (rest.total, rest.more) == (200, False)


def test_slow_batches_get_smaller_and_quick_ones_larger(mortuary, monkeypatch):
    """Large payloads take longer to remove: the lock must not last the longer for it."""
    sizes, clock, took = [], [0.0], [0.3]

    def remove(conn, kind, before, most):
        sizes.append(most)
        clock[0] += took[0]
        return most

    monkeypatch.setattr(retention, "remove", remove)
    keep = {"dead": DAY}
    prune_pass(mortuary.store, keep, "guardian", mortuary.now, seconds=1.0, timer=lambda: clock[0])
    assert sizes == [50, 25, 12, 6]
    sizes.clear()
    took[0] = 0.01
    prune_pass(mortuary.store, keep, "guardian", mortuary.now, seconds=0.06, timer=lambda: clock[0])
    assert sizes[:5] == [50, 100, 200, 400, 500]


def test_under_a_lease_that_was_taken_over_nothing_is_removed(mortuary):
    store, now = mortuary.store, mortuary.now
    mortuary.archive(mortuary.letter(died_at=now - 91 * DAY))
    with store.begin() as conn:
        held = lease.acquire(conn, "retention", "one", timedelta(minutes=1), now)
        assert lease.acquire(conn, "retention", "two", timedelta(minutes=1), now + timedelta(minutes=2))
    assert prune_pass(store, KEEP, "guardian", now, held=held, timer=stopped).total == 0
    assert rows(store, dead_letter) == 1


def test_one_guardian_of_two_does_it_and_looks_seldom_when_nothing_is_left(mortuary):
    store, now = mortuary.store, mortuary.now
    mortuary.archive(mortuary.letter(died_at=now - 91 * DAY))
    one, two = Pruning(store, KEEP, "one"), Pruning(store, KEEP, "two")
    one.run_once(now - 2 * DAY, flush=False)
    two.run_once(now - 2 * DAY, flush=False)
    assert rows(store, dead_letter) == 1
    one.run_once(now, flush=False)
    assert (rows(store, dead_letter), one.every) == (0, timedelta(hours=1))


def test_guardians_long_gone_are_forgotten(mortuary):
    store, now = mortuary.store, mortuary.now
    with store.begin() as conn:
        lease.heartbeat(conn, "gone", now - 9 * DAY, now - 8 * DAY, "host", 1)
        lease.heartbeat(conn, "here", now - 9 * DAY, now, "host", 2)
    assert dict(prune_pass(store, KEEP, "guardian", now, timer=stopped).counts) == {"guardians": 1}
    with store.read() as conn:
        assert list(conn.execute(select(guardian.c.id)).scalars()) == ["here"]
        assert audit.entries(conn)[0].after == {"guardians": 1}


def test_what_the_alerts_needed_goes_with_its_count_once_it_is_said(mortuary):
    store, now = mortuary.store, mortuary.now
    old, young = now - 31 * DAY, now - 29 * DAY
    mortuary.archive_new(task="shop.undecided")
    event = {"environment": "e", "task": "t", "at": old, "payload": {}}
    note = {"period": 1, "kind": "post", "notice": "n", "broadcast": False, "facts": {}, "next_try_at": old,
            "attempts": 0, "absent": 0, "fence": 0, "notes": {}}  # fmt: skip
    group = {"environment": mortuary.letter().environment, "version": 1, "period": 1, "baseline": 0, "data": {}}
    with store.begin() as conn:
        for ref_id, at, processed in (("gone", old, True), ("young", young, True), ("uncounted", old, False)):
            conn.execute(alert_event.insert().values(**event, ref_id=ref_id, recorded_at=at, processed=processed))
        for key, at, status in (("gone", old, "sent"), ("gave up", old, "failed"), ("young", young, "sent"),
                                ("unsaid", old, "pending")):  # fmt: skip
            conn.execute(alert_outbox.insert().values(**note, group_key=key, created_at=at, status=status, ordinal=1))
        for key, task, at, state in (
            ("over", "shop.over", old, "resolved"), ("open", "shop.over", old, "open"),
            ("just over", "shop.over", young, "resolved"), ("unsaid", "shop.over", old, "resolved"),
            ("undecided", "shop.undecided", old, "resolved"),
        ):  # fmt: skip
            conn.execute(alert_group.insert().values(**group, key=key, task=task, updated_at=at, state=state))
    pruned = prune_pass(store, KEEP, "guardian", now, timer=stopped)
    assert dict(pruned.counts) == {"alert_events": 1, "notifications": 2, "alert_groups": 1}
    with store.read() as conn:
        assert audit.entries(conn)[0].after == dict(pruned.counts)
        assert set(conn.execute(select(alert_event.c.ref_id)).scalars()) >= {"young", "uncounted"}
        assert set(conn.execute(select(alert_outbox.c.group_key)).scalars()) == {"young", "unsaid"}
        assert set(conn.execute(select(alert_group.c.key)).scalars()) == {"open", "just over", "unsaid", "undecided"}


def test_a_letter_that_is_being_decided_on_is_left_for_the_next_pass_or_refused(mortuary):
    letter = mortuary.letter(died_at=mortuary.now - 91 * DAY)
    mortuary.archive(letter)
    claim = transition.claim_requeue(mortuary.store, letter.id, "ada", "provider is back", mortuary.now)
    assert prune_pass(mortuary.store, KEEP, "guardian", mortuary.now, timer=stopped).total == 0
    assert rows(mortuary.store, dead_letter) == 1
    assert claim.generation == 1


def test_half_of_many_go_while_a_guardian_archives(mortuary):
    """`GUARDRAILS_LONG=1`: of 100,000."""
    store, now = mortuary.store, mortuary.now
    half = 50_000 if os.environ.get("GUARDRAILS_LONG") else 2_000
    mortuary.archive_new(died_at=now - 91 * DAY, correlation={"order_id": "4711"})
    multiply(store, half - 1, now - 91 * DAY)
    mortuary.archive_new()
    multiply(store, half - 1, now)
    pruning, ended = Pruning(store, KEEP, "one"), threading.Event()

    def prune():
        pruning.run_once(now, flush=False)
        while pruning.every < timedelta(minutes=1):
            pruning.run_once(now, flush=False)
        ended.set()

    pruner = threading.Thread(target=prune)
    pruner.start()
    archived = 0
    while not ended.is_set() or not archived:
        mortuary.archive(*[mortuary.letter() for _ in range(20)])
        archived += 20
    pruner.join()
    with store.read() as conn:
        assert retention.due(conn, KEEP, now)["dead"] == 0
        removed = [entry.after["dead"] for entry in audit.entries(conn, limit=10_000) if entry.actor == "guardian"]
    assert (sum(removed), rows(store, dead_letter)) == (half, half + archived)


def multiply(store, times, died_at):
    """Copy the last letter, `times` times, in the database itself: by way of Python many would take minutes."""
    letters = [column.name for column in dead_letter.columns if column.name not in ("id", "died_at", "death_id")]
    deaths = [column.name for column in death.columns if column.name not in ("id", "letter_id")]
    series = (
        f"generate_series(1, {times}) AS n(i)"
        if store.engine.dialect.name == "postgresql"
        else f"(WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {times}) SELECT i FROM c) AS n"
    )
    with store.begin() as conn:
        newest = conn.execute(text("SELECT id FROM guardrails_dead_letter ORDER BY died_at DESC LIMIT 1")).scalar_one()
        given = {"newest": newest, "at": int(died_at.timestamp()) * 1_000_000}
        conn.execute(text(
            f"INSERT INTO guardrails_dead_letter (id, death_id, {', '.join(letters)}, died_at) "
            f"SELECT l.id || '-' || n.i, l.id || '-' || n.i, {', '.join('l.' + name for name in letters)}, :at "
            f"FROM guardrails_dead_letter l, {series} WHERE l.id = :newest"), given)  # fmt: skip
        conn.execute(text(
            f"INSERT INTO guardrails_death (id, letter_id, {', '.join(deaths)}) "
            f"SELECT d.id || '-' || n.i, d.letter_id || '-' || n.i, {', '.join('d.' + name for name in deaths)} "
            f"FROM guardrails_death d, {series} WHERE d.letter_id = :newest"), given)  # fmt: skip
