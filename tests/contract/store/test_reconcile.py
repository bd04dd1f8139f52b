"""Deaths that workers counted and the archive lacks: only those are named that are really missing."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from sqlalchemy import delete

from celery_guardrails.figures.summary import Summary
from celery_guardrails.guardian.ingest import Ingest
from celery_guardrails.letters.codec import encode
from celery_guardrails.letters.record import SELF_TEST, Letter
from celery_guardrails.recovery.retention import prune_pass
from celery_guardrails.store import reconcile
from celery_guardrails.store.engine import Store
from celery_guardrails.store.table import dead_letter
from celery_guardrails.transport.consumer import Delivery
from tests.contract.store.conftest import NOW, Mortuary

MINUTE = timedelta(minutes=1)
AFTER = timedelta(minutes=10)
LATER = NOW + AFTER
KEEP = {"dead": timedelta(0), "recovered": timedelta(0), "discarded": timedelta(0), "audit": timedelta(days=400)}


def counted(store: Store, *letters: Letter) -> int:
    """Note these letters as a worker counts them."""
    dead = {letter.id: letter.task for letter in letters}
    summary = Summary(str(uuid4()), "production", "w@host", 7, 0, 0, dead=dead)
    with store.begin() as conn:
        return reconcile.note_counted(conn, [summary], NOW)


def watch(store: Store, start=NOW, end=LATER) -> None:
    """A guardian looks every minute."""
    for minute in range(int((end - start) / MINUTE) + 1):
        look_up(store, start + minute * MINUTE)


def missing(store: Store, now=LATER, after: timedelta = AFTER) -> dict[str, int]:
    with store.read() as conn:
        return {f"{one.environment} {one.task}": one.count for one in reconcile.unreconciled(conn, now, after)}


def look_up(store: Store, now=LATER, backlog: bool = False) -> int:
    with store.begin() as conn:
        return reconcile.look_up(conn, now, backlog=backlog)


def arrive(store: Store, *bodies: bytes) -> None:
    """Archive messages as a guardian does."""
    deliveries = [Delivery("dead", body, "application/json", {}, None) for body in bodies]  # type: ignore[arg-type]
    report = Ingest(store, [], "production").run_once(deliveries, NOW)
    assert len(report.settled) == len(bodies)


def test_a_death_that_never_arrives_is_named_after_its_time_and_no_other(mortuary: Mortuary) -> None:
    there, lost = mortuary.archive_new(), mortuary.letter(task="shop.mail")
    look_up(mortuary.store, NOW)
    assert counted(mortuary.store, there, lost, lost) == 1
    watch(mortuary.store)
    assert missing(mortuary.store, LATER - timedelta(seconds=1)) == {}
    assert missing(mortuary.store) == {"production shop.mail": 1}
    with mortuary.store.read() as conn:
        (found,) = reconcile.unreconciled(conn, LATER, AFTER)
    assert (found.ids, found.since) == ((lost.id,), NOW)


def test_a_late_arrival_clears_it(mortuary: Mortuary) -> None:
    late = mortuary.letter()
    counted(mortuary.store, late)
    watch(mortuary.store)
    assert missing(mortuary.store) == {"production billing.charge": 1}
    arrive(mortuary.store, encode(late))
    assert missing(mortuary.store) == {}
    assert look_up(mortuary.store) == 0
    with mortuary.store.begin() as conn:  # cleared for good, whatever becomes of the letter
        conn.execute(delete(dead_letter))
    watch(mortuary.store, LATER, LATER + AFTER)
    assert missing(mortuary.store, LATER + AFTER) == {}


def test_while_letters_wait_in_their_queue_the_time_does_not_run(mortuary: Mortuary) -> None:
    counted(mortuary.store, mortuary.letter())
    watch(mortuary.store)
    assert look_up(mortuary.store, LATER, backlog=True) == 1
    assert missing(mortuary.store) == {}
    watch(mortuary.store, LATER, LATER + AFTER)
    assert missing(mortuary.store, LATER + AFTER) == {"production billing.charge": 1}


def test_while_no_guardian_looks_the_time_does_not_run(mortuary: Mortuary) -> None:
    counted(mortuary.store, mortuary.letter())
    watch(mortuary.store)
    assert missing(mortuary.store) == {"production billing.charge": 1}
    again = LATER + timedelta(hours=1)
    assert missing(mortuary.store, again) == {}
    watch(mortuary.store, again, again + AFTER - MINUTE)  # it may lie in the queue of a guardian that was not there
    assert missing(mortuary.store, again + AFTER - MINUTE) == {}
    watch(mortuary.store, again + AFTER, again + AFTER)
    assert missing(mortuary.store, again + AFTER) == {"production billing.charge": 1}


def test_a_letter_that_is_archived_under_another_id_is_not_missing(mortuary: Mortuary) -> None:
    first = mortuary.archive_new()
    forged = mortuary.letter(dead_letter_id=first.id, generation=1)  # without its claim: kept as its own letter
    hostile = first.model_copy(update={"message": first.message.model_copy(update={"body": b"x"})})
    for early in (True, False):
        if early:
            counted(mortuary.store, forged, hostile)
        arrive(mortuary.store, encode(forged), encode(hostile))
        assert counted(mortuary.store, forged, hostile) == 0
        watch(mortuary.store)
        assert missing(mortuary.store) == {}


def test_a_letter_that_the_archive_refuses_is_not_missing(mortuary: Mortuary, monkeypatch) -> None:
    from celery_guardrails.store import letter as letters

    refused, well = mortuary.letter(task="shop.refused"), mortuary.letter()
    archive = letters.archive

    def picky(conn, found, now):
        if any(item.letter.task == "shop.refused" for item in found):
            raise ValueError("no such letter")
        return archive(conn, found, now)

    monkeypatch.setattr(letters, "archive", picky)
    counted(mortuary.store, refused, well)
    arrive(mortuary.store, encode(refused), encode(well))
    watch(mortuary.store)
    assert missing(mortuary.store) == {}


def test_a_death_that_came_twice_or_was_removed_by_retention_is_not_missing(mortuary: Mortuary) -> None:
    letter = mortuary.letter()
    arrive(mortuary.store, encode(letter), encode(letter))
    prune_pass(mortuary.store, KEEP, "guardian", LATER, timer=lambda: 0.0)
    with mortuary.store.read() as conn:
        assert conn.execute(dead_letter.select()).all() == []
    assert counted(mortuary.store, letter) == 0
    watch(mortuary.store)
    assert missing(mortuary.store) == {}


def test_the_self_test_and_odd_ids_are_not_looked_for(mortuary: Mortuary) -> None:
    assert counted(mortuary.store, mortuary.letter(task=SELF_TEST), mortuary.letter(id="x" * 200)) == 0


def test_what_never_arrives_is_forgotten_after_a_week(mortuary: Mortuary) -> None:
    counted(mortuary.store, mortuary.letter())
    week = NOW + timedelta(days=7)
    watch(mortuary.store, week - AFTER - MINUTE, week + MINUTE)
    assert missing(mortuary.store, week) == {"production billing.charge": 1}
    prune_pass(mortuary.store, KEEP, "guardian", week + MINUTE, timer=lambda: 0.0)
    assert missing(mortuary.store, week + MINUTE) == {}


def test_thousands_are_noted_at_once(mortuary: Mortuary) -> None:
    look_up(mortuary.store, NOW)
    assert counted(mortuary.store, *many(mortuary, 1_201)) == 1_201
    watch(mortuary.store)
    assert missing(mortuary.store) == {"production billing.charge": 1_201}


def many(mortuary: Mortuary, number: int) -> list[Letter]:
    letter = mortuary.letter()
    return [letter.model_copy(update={"id": str(uuid4())}) for _ in range(number)]
