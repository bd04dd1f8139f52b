"""Ends of requeued work that are honest, though they come late or under another name, are believed."""

from __future__ import annotations

import pytest

from celery_guardrails.errors import InvalidTransition
from celery_guardrails.letters.header import Header
from celery_guardrails.letters.record import Letter
from celery_guardrails.letters.recovery import Recovery
from celery_guardrails.policy.decision import Reason
from celery_guardrails.recovery import search as reading
from celery_guardrails.recovery import transition
from celery_guardrails.store.claim import Doubt
from celery_guardrails.store.record import Outcome, State
from tests.contract.store.conftest import NOW, Mortuary
from tests.contract.store.test_claims import LATER, put_back, report, row, tokens, trail


def sent_as(name: str) -> dict[str, str]:
    """The headers of a message that was sent under this name."""
    return {"id": "1", "task": name}


def ended(letter: Letter, header: Header, task: str | None = None) -> Recovery:
    """The honest report of a requeue."""
    return Recovery(letter.id, header.generation, LATER, task or letter.task, header.claim_token)


def died(mortuary: Mortuary, letter: Letter, header: Header, **fields: object) -> Letter:
    """The honest death of a requeue."""
    claimed = {"dead_letter_id": letter.id, "generation": header.generation, "claim_token": header.claim_token}
    return mortuary.letter(**{"task": letter.task} | claimed | fields)


RENAMED = [
    # the name of the letter's task, and what the worker calls it now; the message says `billing.old`
    ("billing.old", "billing.charge"),
    ("billing.charge", "billing.charge"),
    ("billing.charge", "billing.newest"),
]


@pytest.mark.parametrize(("first", "now"), RENAMED)
def test_a_task_that_was_renamed_is_believed_by_the_name_in_its_message(
    mortuary: Mortuary, first: str, now: str
) -> None:
    letter = mortuary.archive_new(task=first, headers=sent_as("billing.old"), reason=Reason.UNKNOWN_TASK)
    header = put_back(mortuary, letter)
    (again,) = mortuary.archive(died(mortuary, letter, header, task=now, headers=sent_as("billing.old")))
    assert (again.id, again.outcome, again.set_aside) == (letter.id, Outcome.REGRESSED, None)
    header = put_back(mortuary, letter)
    (found,) = report(mortuary, ended(letter, header, "billing.old"))
    assert (found.recovered, found.set_aside) == (True, None)
    assert row(mortuary, letter.id).state is State.RECOVERED


def test_another_task_that_has_the_token_is_still_another_task(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new(headers=sent_as("billing.old"))
    header = put_back(mortuary, letter)
    stranger = died(mortuary, letter, header, task="billing.child", headers=sent_as("billing.child"))
    assert mortuary.archive(stranger)[0].outcome is Outcome.NEW
    (found,) = report(mortuary, ended(letter, header, "billing.child"))
    assert found.set_aside is not None
    assert found.set_aside.doubt == str(Doubt.OTHER_TASK)
    assert row(mortuary, letter.id).state is State.REQUEUED


def restored(mortuary: Mortuary) -> tuple[Letter, Header]:
    """A letter that was put back, and of which nobody has heard for long enough."""
    letter = mortuary.archive_new()
    header = put_back(mortuary, letter)
    back = transition.restore(mortuary.store, letter.id, "bob", "its queue was purged", LATER)
    assert (back.state, back.generation, back.regressed) == (State.DEAD, 1, False)
    return letter, header


def test_a_requeued_letter_can_be_restored_with_a_reason(mortuary: Mortuary) -> None:
    letter, _ = restored(mortuary)
    entry = trail(mortuary, letter.id)[-1]
    assert (entry.action, entry.actor, entry.reason) == ("restore", "bob", "its queue was purged")
    assert (entry.before, entry.after) == ({"state": "requeued", "generation": 1}, {"state": "dead"})
    assert transition.discard(mortuary.store, letter.id, "bob", "gone", LATER).state is State.DISCARDED


def test_a_restored_letter_can_be_put_back_with_the_next_generation(mortuary: Mortuary) -> None:
    letter, first = restored(mortuary)
    second = put_back(mortuary, letter)
    assert (first.generation, second.generation) == (1, 2)
    assert report(mortuary, ended(letter, second))[0].recovered


def test_a_claim_that_is_restored_keeps_no_token_in_clear_and_nobody_publishes_it(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    transition.claim_requeue(mortuary.store, letter.id, "ann", "mended", NOW)
    transition.restore(mortuary.store, letter.id, "bob", "not after all", LATER)
    assert tokens(mortuary) == []
    assert transition.unpublished_claims(mortuary.store, LATER) == []


def test_a_late_recovery_after_a_restore_is_believed(mortuary: Mortuary) -> None:
    letter, header = restored(mortuary)
    assert [found.recovered for found in report(mortuary, ended(letter, header), ended(letter, header))] == [
        True, False,
    ]  # fmt: skip
    now = row(mortuary, letter.id)
    assert (now.state, now.generation) == (State.RECOVERED, 1)


def test_a_late_death_after_a_restore_is_a_further_death(mortuary: Mortuary) -> None:
    letter, header = restored(mortuary)
    further = died(mortuary, letter, header, reason=Reason.PERMANENT_ERROR)
    assert [found.outcome for found in mortuary.archive(further)] == [Outcome.REGRESSED]
    now = row(mortuary, letter.id)
    assert (now.state, now.reason, now.death_id, now.regressed) == (
        State.DEAD, "permanent_error", further.id, True,
    )  # fmt: skip
    # it has ended by this death: what comes after it changes nothing
    assert not report(mortuary, ended(letter, header))[0].recovered
    assert [found.outcome for found in mortuary.archive(died(mortuary, letter, header))] == [Outcome.STALE]


def test_a_late_recovery_after_a_restore_and_another_requeue_is_believed_and_a_later_death_counts(
    mortuary: Mortuary,
) -> None:
    letter, first = restored(mortuary)
    second = put_back(mortuary, letter)
    assert report(mortuary, ended(letter, first))[0].recovered
    now, entry = row(mortuary, letter.id), trail(mortuary, letter.id)[-1]
    assert (now.state, now.generation) == (State.RECOVERED, 2)
    assert entry.after == {"state": "recovered", "generation": 2}
    assert [found.outcome for found in mortuary.archive(died(mortuary, letter, second))] == [Outcome.REGRESSED]
    assert row(mortuary, letter.id).state is State.DEAD


def test_a_late_death_after_a_restore_and_another_requeue_leaves_the_later_one_alone(mortuary: Mortuary) -> None:
    letter, first = restored(mortuary)
    second = put_back(mortuary, letter)
    assert [found.outcome for found in mortuary.archive(died(mortuary, letter, first))] == [Outcome.STALE]
    assert row(mortuary, letter.id).state is State.REQUEUED
    assert report(mortuary, ended(letter, second))[0].recovered
    assert len(reading.deaths(mortuary.store, letter.id)) == 2


def test_a_report_of_a_generation_that_died_changes_nothing_after_another_requeue(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    first = put_back(mortuary, letter)
    mortuary.archive(died(mortuary, letter, first))
    put_back(mortuary, letter)
    assert not report(mortuary, ended(letter, first))[0].recovered
    assert row(mortuary, letter.id).state is State.REQUEUED


def test_what_is_discarded_after_a_restore_stays_so(mortuary: Mortuary) -> None:
    letter, header = restored(mortuary)
    transition.discard(mortuary.store, letter.id, "bob", "gone", LATER)
    assert not report(mortuary, ended(letter, header))[0].recovered
    assert [found.outcome for found in mortuary.archive(died(mortuary, letter, header))] == [Outcome.STALE]
    assert row(mortuary, letter.id).state is State.DISCARDED


@pytest.mark.parametrize("act", [transition.claim_requeue, transition.discard])
def test_what_is_requeued_says_what_to_type(mortuary: Mortuary, act) -> None:
    letter = mortuary.archive_new()
    put_back(mortuary, letter)
    with pytest.raises(InvalidTransition, match=f'guardrails dlq restore {letter.id} --reason "..."'):
        act(mortuary.store, letter.id, "bob", "gone", LATER)
