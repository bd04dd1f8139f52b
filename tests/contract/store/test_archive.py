"""Archiving deaths: whatever is redelivered, late or odd, the archive ends in the same state."""

from __future__ import annotations

import itertools
import random
from datetime import datetime, timedelta

import pytest

from celery_guardrails.letters.record import LetterFailure
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.store import letter as letters
from celery_guardrails.store import transition
from celery_guardrails.store.record import Archivable, Outcome, State
from tests.contract.store.conftest import NOW, Mortuary


def outcomes(mortuary: Mortuary, *found) -> list[Outcome]:
    return [result.outcome for result in mortuary.archive(*found)]


def summary(mortuary: Mortuary, letter_id: str):
    with mortuary.store.read() as conn:
        return letters.get(conn, letter_id).summary


def requeue(mortuary: Mortuary, letter_id: str) -> None:
    with mortuary.store.begin() as conn:
        assert transition.claim(conn, letter_id, "ann", "repaired", NOW)


def test_an_empty_batch_is_nothing(mortuary: Mortuary) -> None:
    assert mortuary.archive() == []


def test_every_field_comes_back(mortuary: Mortuary) -> None:
    letter = mortuary.letter(root_id="r", parent_id="p", group_id="g", owner="pay", version="3", published_at=NOW)
    (result,) = mortuary.archive(letter)
    assert (result.id, result.death_id, result.outcome, result.letter) == (letter.id, letter.id, Outcome.NEW, letter)
    row = summary(mortuary, letter.id)
    assert (row.id, row.state, row.reason, row.category) == (letter.id, State.DEAD, "attempts_exhausted", "timeout")
    assert (row.root_id, row.parent_id, row.group_id, row.owner, row.version) == ("r", "p", "g", "pay", "3")
    assert (row.published_at, row.died_at, row.archived_at) == (NOW, NOW, NOW)
    assert (row.generation, row.attempts, row.regressed, row.resolved_at) == (0, 5, False, None)
    with mortuary.store.read() as conn:
        assert letters.get(conn, letter.id).letter == letter


def test_the_payload_is_kept_as_published(mortuary: Mortuary) -> None:
    letter = mortuary.letter()
    published = Archivable.of(letter).payload.replace(b'{"v":1', b'{"a field of a later version": 1,"v":1')
    with mortuary.store.begin() as conn:
        letters.archive(conn, [Archivable(letter, published)], NOW)
        assert conn.exec_driver_sql("SELECT payload FROM guardrails_death").scalar() == published


def test_the_same_death_twice_is_a_duplicate(mortuary: Mortuary) -> None:
    letter = mortuary.letter()
    assert outcomes(mortuary, letter, letter) == [Outcome.NEW, Outcome.DUPLICATE]
    assert outcomes(mortuary, letter, mortuary.letter()) == [Outcome.DUPLICATE, Outcome.NEW]
    with mortuary.store.read() as conn:
        assert letters.count(conn) == 2
        assert len(letters.deaths(conn, letter.id)) == 1


def test_a_redelivery_after_a_requeue_changes_nothing(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    requeue(mortuary, letter.id)
    assert outcomes(mortuary, letter) == [Outcome.DUPLICATE]
    assert summary(mortuary, letter.id).state is State.REQUEUED


@pytest.mark.parametrize("recovered", [False, True])
def test_requeued_work_that_dies_again_has_regressed(mortuary: Mortuary, recovered: bool) -> None:
    first = mortuary.archive_new()
    requeue(mortuary, first.id)
    if recovered:
        with mortuary.store.begin() as conn:
            assert transition.confirm_recovered(conn, first.id, 1, NOW)
    failure = LetterFailure(type="KeyError", message="x", category=Category.BUG, fingerprint="v1:other")
    again = mortuary.further(
        first, 1, task_id=first.task_id, failure=failure,
        reason=Reason.PERMANENT_ERROR, died_at=NOW + timedelta(hours=1),
    )  # fmt: skip
    (result,) = mortuary.archive(again)
    assert (result.id, result.death_id, result.outcome) == (first.id, again.id, Outcome.REGRESSED)
    row = summary(mortuary, first.id)
    assert (row.state, row.generation, row.regressed, row.resolved_at) == (State.DEAD, 1, True, None)
    assert (row.error, row.fingerprint, row.reason, row.category) == ("KeyError", "v1:other", "permanent_error", "bug")
    assert (row.death_id, row.died_at, row.requeued_by) == (again.id, again.died_at, "ann")
    with mortuary.store.read() as conn:
        assert letters.get(conn, first.id).letter == again
        assert [(death.id, death.generation) for death in letters.deaths(conn, first.id)] == [
            (first.id, 0), (again.id, 1),
        ]  # fmt: skip


def test_an_older_generation_that_comes_late_is_only_history(mortuary: Mortuary) -> None:
    first = mortuary.archive_new()
    second = mortuary.further(first, 1)
    third = mortuary.further(first, 2)
    assert outcomes(mortuary, third) == [Outcome.REGRESSED]
    assert outcomes(mortuary, second) == [Outcome.STALE]
    assert outcomes(mortuary, second) == [Outcome.DUPLICATE]
    assert summary(mortuary, first.id).death_id == third.id
    with mortuary.store.read() as conn:
        assert len(letters.deaths(conn, first.id)) == 3


def test_a_second_death_of_the_same_generation_is_only_history(mortuary: Mortuary) -> None:
    first = mortuary.archive_new()
    requeue(mortuary, first.id)
    copies = [mortuary.further(first, 1) for _ in range(2)]
    assert sorted(outcomes(mortuary, *copies)) == [Outcome.REGRESSED, Outcome.STALE]


def test_a_death_does_not_undo_a_discard_but_its_generation_is_not_given_again(mortuary: Mortuary) -> None:
    first = mortuary.archive_new()
    with mortuary.store.begin() as conn:
        assert transition.discard(conn, first.id, NOW)
    assert outcomes(mortuary, mortuary.further(first, 1)) == [Outcome.STALE]
    row = summary(mortuary, first.id)
    assert (row.state, row.generation, row.resolved_at) == (State.DISCARDED, 1, NOW)


def test_every_order_of_arrival_ends_alike(mortuary: Mortuary) -> None:
    for order in itertools.permutations(range(3)):
        origin = mortuary.archive_new()
        deaths = [origin, *(mortuary.further(origin, n) for n in (1, 2))]
        for index in order:
            mortuary.archive(deaths[index])
        row = summary(mortuary, origin.id)
        assert (row.generation, row.death_id, row.state, row.regressed) == (2, deaths[2].id, State.DEAD, True)


def test_three_generations_in_one_batch(mortuary: Mortuary) -> None:
    origin = mortuary.archive_new()
    deaths = [origin, *(mortuary.further(origin, n) for n in (1, 2))]
    shuffled = random.Random(7).sample(deaths, 3)
    results = {result.death_id: result.outcome for result in mortuary.archive(*shuffled)}
    assert [results[death.id] for death in deaths] == [Outcome.DUPLICATE, Outcome.REGRESSED, Outcome.REGRESSED]
    assert summary(mortuary, origin.id).death_id == deaths[2].id


def test_odd_text_is_kept_and_blocks_no_batch(mortuary: Mortuary) -> None:
    odd = mortuary.letter(
        task="nul\0 in it", message="m\0" + "x" * 5000, queue="q" * 10_000, correlation={"a\0": "v\0"}
    )
    endless = mortuary.letter(id="i" * 5000, owner="ünïcode \U0001f600")
    late = mortuary.letter(died_at=datetime(2026, 1, 1), generation=10**12, dead_letter_id="z" * 300)
    results = mortuary.archive(odd, endless, late)
    assert [result.outcome for result in results] == [Outcome.NEW] * 3
    assert outcomes(mortuary, odd, endless, late) == [Outcome.DUPLICATE] * 3
    row = summary(mortuary, odd.id)
    assert (row.task, len(row.message), len(row.queue)) == ("nul\ufffd in it", 500, 400)
    assert summary(mortuary, results[1].id).owner == "ünïcode \U0001f600"
    assert summary(mortuary, results[2].id).died_at.tzinfo is not None


def test_half_a_surrogate_pair_blocks_no_batch(mortuary: Mortuary) -> None:
    letter = mortuary.letter().model_copy(update={"queue": "\ud800"})
    payload = Archivable.of(mortuary.letter()).payload
    with mortuary.store.begin() as conn:
        (result,) = letters.archive(conn, [Archivable(letter, payload)], NOW)
        assert (result.outcome, letters.search(conn).letters[0].queue) == (Outcome.NEW, "?")


def test_a_letter_without_attempts_or_message_shows_why(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new(attempts=(), message="", explanation="nobody knows this task")
    row = summary(mortuary, letter.id)
    assert (row.attempts, row.message) == (0, "nobody knows this task")


def test_a_recovery_counts_once_and_only_for_its_generation(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()

    def confirm(generation: int, letter_id: str = letter.id) -> bool:
        with mortuary.store.begin() as conn:
            return transition.confirm_recovered(conn, letter_id, generation, NOW)

    assert not confirm(0), "it is dead, and nobody has put it back"
    assert not confirm(2), "it has not been put back twice"
    requeue(mortuary, letter.id)
    assert not confirm(0)
    assert not confirm(2)
    assert not confirm(1, "unknown")
    assert confirm(1)
    assert not confirm(1)
    row = summary(mortuary, letter.id)
    assert (row.state, row.resolved_at) == (State.RECOVERED, NOW)


def test_work_whose_claim_was_given_back_may_have_run_all_the_same(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    for generation in (1, 2):
        requeue(mortuary, letter.id)
        with mortuary.store.begin() as conn:
            assert transition.mark_failed(conn, letter.id, generation)
            for stale in {0, generation - 1, generation + 1}:
                assert not transition.confirm_recovered(conn, letter.id, stale, NOW)
            assert transition.confirm_recovered(conn, letter.id, generation, NOW)
            assert not transition.confirm_recovered(conn, letter.id, generation, NOW)
            assert not transition.confirm_recovered(conn, letter.id, generation + 1, NOW), "it is not dead"
        row = summary(mortuary, letter.id)
        assert (row.state, row.generation, row.resolved_at) == (State.RECOVERED, generation, NOW)
        # a copy of it dies after all: what comes next is the next generation
        assert outcomes(mortuary, mortuary.further(letter, generation)) == [Outcome.REGRESSED]


@pytest.mark.parametrize("generation", [-(10**30), -1, 0, 2**31, 10**30])
def test_a_report_of_an_impossible_generation_changes_nothing(mortuary: Mortuary, generation: int) -> None:
    letter = mortuary.archive_new(generation=10**12)
    with mortuary.store.begin() as conn:
        assert not transition.confirm_recovered(conn, letter.id, generation, NOW)
    assert summary(mortuary, letter.id).state is State.DEAD


def test_a_report_does_not_undo_a_later_death_nor_a_decision(mortuary: Mortuary) -> None:
    died, discarded = mortuary.archive_new(), mortuary.archive_new()
    for letter in (died, discarded):
        requeue(mortuary, letter.id)
        with mortuary.store.begin() as conn:
            assert transition.mark_failed(conn, letter.id, 1)
    mortuary.archive(mortuary.further(died, 1))
    with mortuary.store.begin() as conn:
        assert transition.discard(conn, discarded.id, NOW)
        for letter in (died, discarded):
            assert not transition.confirm_recovered(conn, letter.id, 1, NOW)
    assert (summary(mortuary, died.id).state, summary(mortuary, died.id).generation) == (State.DEAD, 1)
    assert summary(mortuary, discarded.id).state is State.DISCARDED


def test_an_archived_batch_is_gone_when_its_transaction_fails(mortuary: Mortuary) -> None:
    letter = mortuary.letter()

    def interrupted() -> None:
        with mortuary.store.begin() as conn:
            letters.archive(conn, [Archivable.of(letter)], NOW)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert outcomes(mortuary, letter) == [Outcome.NEW]
