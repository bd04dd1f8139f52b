"""What somebody forges neither keeps an honest end out, nor hides what is refused later."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from sqlalchemy import text

from celery_guardrails.letters.record import Letter
from celery_guardrails.letters.recovery import Recovery
from celery_guardrails.recovery import search as reading
from celery_guardrails.recovery import transition
from celery_guardrails.recovery.requeue import finish_requeues
from celery_guardrails.store import letter as letters
from celery_guardrails.store.record import Outcome, State
from tests.contract.store.conftest import LATER_TABLES, NOW, Mortuary
from tests.contract.store.test_claim_ends import died, ended
from tests.contract.store.test_claims import LATER, Outbound, older, put_back, report, row, trail


def test_a_letter_that_has_the_id_of_the_next_death_does_not_keep_it_out(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    right = died(mortuary, letter, put_back(mortuary, letter))
    mortuary.archive_new(id=right.id, task="evil.task")
    (result,) = mortuary.archive(right)
    assert (result.id, result.outcome, result.set_aside) == (letter.id, Outcome.REGRESSED, None)
    assert result.death_id != right.id
    now = row(mortuary, letter.id)
    assert (now.state, now.death_id) == (State.DEAD, result.death_id)
    assert trail(mortuary, letter.id)[-1].action == "die"
    assert "it has the id of a death" in trail(mortuary, right.id)[-1].reason
    assert [found.outcome for found in mortuary.archive(right)] == [Outcome.DUPLICATE]
    assert len(reading.deaths(mortuary.store, letter.id)) == 2


def test_neither_does_one_of_the_same_batch(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    right = died(mortuary, letter, put_back(mortuary, letter))
    forged, honest = mortuary.archive(mortuary.letter(id=right.id, task="evil.task"), right)
    assert (forged.outcome, honest.outcome, honest.id) == (Outcome.NEW, Outcome.REGRESSED, letter.id)


def test_a_letter_with_the_id_of_a_death_that_is_known_is_one_of_its_own(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    right = died(mortuary, letter, put_back(mortuary, letter))
    mortuary.archive(right)
    (forged,) = mortuary.archive(mortuary.letter(id=right.id, task="evil.task"))
    assert forged.outcome is Outcome.NEW
    assert forged.id not in (letter.id, right.id)
    assert reading.get(mortuary.store, forged.id).letter.task == "evil.task"
    assert row(mortuary, letter.id).death_id == right.id


def forged(letter: Letter) -> Letter:
    """One that has the id of a first death, which anybody can guess, and other work."""
    return letter.model_copy(update={"message": letter.message.model_copy(update={"body": b"[[], {}, {}]"})})


def test_a_forged_first_death_does_not_keep_the_honest_one_out(mortuary: Mortuary) -> None:
    honest = mortuary.letter(task="billing.charge")
    mortuary.archive(forged(honest))
    (kept,) = mortuary.archive(honest)
    assert (kept.outcome, kept.id == honest.id) == (Outcome.NEW, False)
    assert reading.get(mortuary.store, kept.id).letter.message.body == honest.message.body
    assert "it has the id of a death" in trail(mortuary, honest.id)[-1].reason
    assert [found.outcome for found in mortuary.archive(honest)] == [Outcome.DUPLICATE]


def test_neither_does_a_forged_first_death_of_the_same_batch(mortuary: Mortuary) -> None:
    honest = mortuary.letter()
    first, second = mortuary.archive(forged(honest), honest)
    assert (first.outcome, second.outcome) == (Outcome.NEW, Outcome.NEW)
    assert first.id != second.id


def test_the_same_first_death_told_twice_in_other_words_is_one(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    again = letter.model_copy(update={"explanation": "told by the main process, too"})
    assert [found.outcome for found in mortuary.archive(again)] == [Outcome.DUPLICATE]


def test_a_first_refusal_of_another_kind_or_on_another_day_has_its_entry(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    header = put_back(mortuary, letter)

    def refused() -> int:
        return [entry.outcome for entry in trail(mortuary, letter.id)].count("refused")

    for _ in range(3):
        report(mortuary, *[Recovery(letter.id, 1, LATER, letter.task)] * 20)
    assert refused() == 3
    report(mortuary, Recovery(letter.id, 1, LATER, letter.task, "0" * 48))
    assert refused() == 4
    mortuary.archive(mortuary.letter(dead_letter_id=letter.id, generation=1))
    assert refused() == 5
    with mortuary.store.begin() as conn:
        letters.recover(conn, [Recovery(letter.id, 1, LATER, letter.task)], LATER + timedelta(days=1))
    assert refused() == 6
    assert report(mortuary, ended(letter, header))[0].recovered


def test_a_claim_without_a_token_that_was_published_with_one_wants_it(mortuary: Mortuary) -> None:
    letter, outbound = mortuary.archive_new(), Outbound()
    transition.claim_requeue(mortuary.store, letter.id, "ann", "mended", NOW)
    older(mortuary)
    finish_requeues(mortuary.store, outbound, LATER)
    assert not report(mortuary, Recovery(letter.id, 1, LATER, letter.task))[0].recovered
    assert report(mortuary, Recovery(letter.id, 1, LATER, letter.task, outbound.header.claim_token))[0].recovered


def test_a_claim_that_was_given_back_before_there_were_tokens_is_believed(mortuary: Mortuary) -> None:
    found = [mortuary.archive_new() for _ in range(2)]
    for letter in found:
        claim = transition.claim_requeue(mortuary.store, letter.id, "ann", "mended", NOW)
        assert transition.requeue_failed(mortuary.store, claim, "unconfirmed", NOW)
    never = mortuary.archive_new()
    with mortuary.store.begin() as conn:
        for name in ("guardrails_claim", *LATER_TABLES):
            conn.execute(text(f"DROP TABLE {name}"))
        conn.execute(text("UPDATE guardrails_schema SET version_num = '0005'"))
    mortuary.store.migrate()
    well, badly = found
    assert report(mortuary, Recovery(well.id, 1, LATER), Recovery(never.id, 1, LATER))[0].recovered
    (result,) = mortuary.archive(mortuary.letter(id=str(uuid4()), dead_letter_id=badly.id, generation=1))
    assert (result.id, result.outcome) == (badly.id, Outcome.REGRESSED)
    assert row(mortuary, never.id).state is State.DEAD
    (other,) = mortuary.archive(mortuary.letter(dead_letter_id=never.id, generation=1))
    assert other.outcome is Outcome.NEW
