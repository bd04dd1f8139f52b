"""Several processes on one archive: each thing is done by one of them, and none is turned away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

import pytest

from celery_guardrails.errors import InvalidTransition
from celery_guardrails.recovery import search as reading
from celery_guardrails.recovery import transition
from celery_guardrails.recovery.requeue import finish_requeues
from celery_guardrails.store import audit, lease
from celery_guardrails.store import letter as letters
from celery_guardrails.store.engine import Store, open_store
from celery_guardrails.store.record import Archivable, Outcome, State
from tests.contract.store.conftest import NOW, Mortuary

WORKERS = 4
T = TypeVar("T")


def race(url: str, act: Callable[[Store, int], T]) -> list[T]:
    """Run `act` on stores of their own, all at once."""
    barrier = threading.Barrier(WORKERS)

    def run(number: int) -> T:
        store = open_store(url)
        try:
            with store.read():
                pass  # connected: what follows is as simultaneous as it can be
            barrier.wait(30)
            return act(store, number)
        finally:
            store.close()

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(run, range(WORKERS)))


def test_a_letter_is_claimed_by_one(url: str, mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()

    def claim(store: Store, number: int) -> str | None:
        try:
            return transition.claim_requeue(store, letter.id, f"actor-{number}", "repaired", NOW).actor
        except InvalidTransition:
            return None

    (winner,) = (actor for actor in race(url, claim) if actor)
    row = reading.get(mortuary.store, letter.id).summary
    assert (row.requeued_by, row.generation) == (winner, 1)


def test_a_requeue_and_a_discard_do_not_both_happen(url: str, mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()

    def decide(store: Store, number: int) -> State | None:
        act = transition.claim_requeue if number % 2 else transition.discard
        try:
            act(store, letter.id, f"actor-{number}", "decided", NOW)
        except InvalidTransition:
            return None
        return State.REQUEUED if number % 2 else State.DISCARDED

    (outcome,) = (state for state in race(url, decide) if state)
    assert reading.get(mortuary.store, letter.id).summary.state is outcome


def test_the_same_batch_is_archived_once(url: str, mortuary: Mortuary) -> None:
    known = mortuary.archive_new()
    known_again = mortuary.further(known, 1)
    batch = [Archivable.of(letter) for letter in (known_again, *(mortuary.letter() for _ in range(30)))]

    def archive(store: Store, number: int) -> list[Outcome]:
        order = batch if number % 2 else batch[::-1]
        with store.begin() as conn:
            return [result.outcome for result in letters.archive(conn, order, NOW)]

    seen = [outcome for outcomes in race(url, archive) for outcome in outcomes]
    assert (seen.count(Outcome.NEW), seen.count(Outcome.REGRESSED)) == (30, 1)
    assert seen.count(Outcome.DUPLICATE) == len(seen) - 31
    assert reading.count(mortuary.store) == 31


def test_different_deaths_of_the_same_works_do_not_block_each_other_for_ever(url: str, mortuary: Mortuary) -> None:
    works = [mortuary.letter() for _ in range(10)]
    mortuary.archive(*works)
    batches = [[Archivable.of(mortuary.further(work, number + 1)) for work in works] for number in range(WORKERS)]

    def archive(store: Store, number: int) -> None:
        with store.begin() as conn:
            letters.archive(conn, batches[number] if number % 2 else batches[number][::-1], NOW)

    race(url, archive)
    assert {row.generation for row in reading.each(mortuary.store)} == {WORKERS}
    assert all(len(reading.deaths(mortuary.store, work.id)) == WORKERS + 1 for work in works)


def test_an_abandoned_claim_is_published_by_one_guardian(url: str, mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    transition.claim_requeue(mortuary.store, letter.id, "ann", "repaired", NOW)
    published: list[str] = []

    class Outbound:
        def publish(self, message) -> None:
            published.append(message.dead_letter_id)

    race(url, lambda store, number: finish_requeues(store, Outbound(), NOW + timedelta(minutes=5)))
    assert published == [letter.id]
    with mortuary.store.read() as conn:
        outcomes = [entry.outcome for entry in audit.entries(conn, target=letter.id)]
    assert outcomes == ["finished", "done"]


@pytest.mark.parametrize("expired", [False, True])
def test_a_lease_is_taken_by_one(url: str, mortuary: Mortuary, expired: bool) -> None:
    if expired:
        with mortuary.store.begin() as conn:
            lease.acquire(conn, "poster", "gone", timedelta(0), NOW)

    def acquire(store: Store, number: int) -> lease.Lease | None:
        with store.begin() as conn:
            return lease.acquire(conn, "poster", f"guardian-{number}", timedelta(seconds=30), NOW)

    (held,) = (got for got in race(url, acquire) if got)
    assert held.fence == (2 if expired else 1)
