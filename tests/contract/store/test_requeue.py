"""Putting back, discarding and restoring: a single winner, always a reason, and no claim that nobody publishes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from celery_guardrails.errors import (
    DeadLetterNotFound,
    InvalidTransition,
    PublishError,
    ReasonRequired,
    RequeueFailed,
    StoreError,
)
from celery_guardrails.letters.codec import unreadable
from celery_guardrails.letters.replay import ReplayMessage
from celery_guardrails.recovery import search as reading
from celery_guardrails.recovery import transition
from celery_guardrails.recovery.requeue import Finished, finish_requeues, requeue
from celery_guardrails.store import audit
from celery_guardrails.store import transition as moves
from celery_guardrails.store.record import LetterSummary, State
from tests.contract.store.conftest import NOW, Mortuary

GRACE = timedelta(seconds=60)
LATER = NOW + timedelta(minutes=5)


class Outbound:
    """A publisher that remembers what it published; `before` runs first, and may refuse."""

    def __init__(self, before=lambda message: None) -> None:
        self.published: list[ReplayMessage] = []
        self.before = before

    def publish(self, message: ReplayMessage) -> None:
        self.before(message)
        self.published.append(message)


def refuse(message: ReplayMessage) -> None:
    raise PublishError(message.queue, "unroutable")


def row(mortuary: Mortuary, letter_id: str) -> LetterSummary:
    return reading.get(mortuary.store, letter_id).summary


def trail(mortuary: Mortuary, letter_id: str) -> list[audit.AuditEntry]:
    with mortuary.store.read() as conn:
        return audit.entries(conn, target=letter_id)


def test_a_requeue_publishes_the_original_and_says_who_and_why(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    outbound = Outbound()
    done = requeue(mortuary.store, outbound, letter.id[:8], "ann@laptop", "  provider repaired ", LATER)
    assert (done.id, done.task, done.queue, done.generation) == (letter.id, letter.task, "mail", 1)
    (message,) = outbound.published
    assert (message.body, message.dead_letter_id) == (letter.message.body, letter.id)
    assert (message.headers["guardrails"]["generation"], message.headers["retries"]) == (1, 0)
    now = row(mortuary, letter.id)
    assert (now.state, now.generation, now.requeued_at, now.requeued_by) == (State.REQUEUED, 1, LATER, "ann@laptop")
    assert (now.requeue_reason, now.requeue_published_at) == ("provider repaired", LATER)
    (entry,) = trail(mortuary, letter.id)
    assert (entry.action, entry.actor, entry.reason, entry.outcome) == (
        "requeue", "ann@laptop", "provider repaired", "done",
    )  # fmt: skip
    assert (entry.before, entry.after) == ({"state": "dead", "generation": 0}, {"state": "requeued", "generation": 1})


def test_what_is_not_dead_is_not_requeued_and_says_who_did(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    outbound = Outbound()
    requeue(mortuary.store, outbound, letter.id, "ann", "repaired", NOW)
    with pytest.raises(InvalidTransition, match=r"ann has requeued it at 2026-11-22 12:00:00 UTC \(repaired\)"):
        requeue(mortuary.store, outbound, letter.id, "bob", "again", NOW)
    with mortuary.store.begin() as conn:
        moves.confirm_recovered(conn, letter.id, 1, LATER)
    with pytest.raises(InvalidTransition, match="it recovered at 2026-11-22 12:05:00 UTC, requeued by ann"):
        requeue(mortuary.store, outbound, letter.id, "bob", "again", NOW)
    assert len(outbound.published) == len(trail(mortuary, letter.id)) == 1


@pytest.mark.parametrize("act", [transition.claim_requeue, transition.discard, transition.restore])
def test_no_reason_and_no_such_letter_change_nothing(mortuary: Mortuary, act) -> None:
    letter = mortuary.archive_new()
    for blank in ("", " \t\n"):
        with pytest.raises(ReasonRequired, match="a reason is required"):
            act(mortuary.store, letter.id, "ann", blank, NOW)
    with pytest.raises(DeadLetterNotFound):
        act(mortuary.store, "unknown", "ann", "because", NOW)
    assert row(mortuary, letter.id).state is State.DEAD
    assert trail(mortuary, letter.id) == []


def test_what_is_no_task_message_is_not_requeued(mortuary: Mortuary) -> None:
    letter = unreadable(b"\xff\x00", "not JSON", "celery.dead_letter", NOW)
    mortuary.archive(letter)
    with pytest.raises(InvalidTransition, match="nothing to run: discard it"):
        requeue(mortuary.store, Outbound(), letter.id, "ann", "why not", NOW)
    assert reading.get(mortuary.store, letter.id).letter.message.body == b"\xff\x00"


@pytest.mark.parametrize("error", [PublishError("mail", "unroutable"), OSError("unroutable")])
def test_what_the_broker_refuses_is_dead_again(mortuary: Mortuary, error: Exception) -> None:
    letter = mortuary.archive_new()

    def fail(message: ReplayMessage) -> None:
        raise error

    with pytest.raises(RequeueFailed, match="unroutable; it is dead again"):
        requeue(mortuary.store, Outbound(fail), letter.id, "ann", "repaired", NOW)
    now = row(mortuary, letter.id)
    assert (now.state, now.generation, now.requeued_by, now.requeue_tried_at) == (State.DEAD, 0, None, None)
    failed, claimed = trail(mortuary, letter.id)
    assert (failed.outcome, failed.actor, claimed.outcome) == ("failed", "ann", "done")
    assert "unroutable" in failed.after["error"]
    assert requeue(mortuary.store, Outbound(), letter.id, "ann", "repaired", NOW).generation == 1


def test_a_worker_that_reports_before_the_broker_confirms_is_believed(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()

    def run_and_lose_the_confirmation(message: ReplayMessage) -> None:
        with mortuary.store.begin() as conn:
            moves.confirm_recovered(conn, message.dead_letter_id, 1, NOW)
        raise PublishError("mail", "connection lost")

    requeue(mortuary.store, Outbound(run_and_lose_the_confirmation), letter.id, "ann", "repaired", NOW)
    assert row(mortuary, letter.id).state is State.RECOVERED


def test_a_worker_that_reports_after_the_claim_was_given_back_is_believed(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    with pytest.raises(RequeueFailed, match="it is dead again"):
        requeue(mortuary.store, Outbound(refuse), letter.id, "ann", "repaired", NOW)
    with mortuary.store.begin() as conn:
        assert moves.confirm_recovered(conn, letter.id, 1, LATER)
    now = row(mortuary, letter.id)
    assert (now.state, now.generation, now.resolved_at) == (State.RECOVERED, 1, LATER)
    with pytest.raises(InvalidTransition, match=r"it recovered at 2026-11-22 12:05:00 UTC$"):
        requeue(mortuary.store, Outbound(), letter.id, "bob", "again", LATER)
    assert finish_requeues(mortuary.store, Outbound(), LATER + GRACE * 2, GRACE) == []


def test_a_worker_that_is_faster_than_the_note_is_believed(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()

    def run_at_once(message: ReplayMessage) -> None:
        with mortuary.store.begin() as conn:
            moves.confirm_recovered(conn, message.dead_letter_id, 1, NOW)

    requeue(mortuary.store, Outbound(run_at_once), letter.id, "ann", "repaired", LATER)
    now = row(mortuary, letter.id)
    assert (now.state, now.requeue_published_at) == (State.RECOVERED, LATER)
    assert finish_requeues(mortuary.store, Outbound(), LATER + GRACE * 2, GRACE) == []


def test_an_abandoned_claim_is_published_once_after_the_grace(mortuary: Mortuary) -> None:
    letter, outbound = mortuary.archive_new(), Outbound()
    transition.claim_requeue(mortuary.store, letter.id, "ann", "repaired", NOW)
    assert finish_requeues(mortuary.store, outbound, NOW + GRACE, GRACE) == []
    assert transition.unpublished_claims(mortuary.store, LATER) == [letter.id]
    assert finish_requeues(mortuary.store, outbound, LATER, GRACE) == [Finished(letter.id, 1)]
    assert finish_requeues(mortuary.store, outbound, LATER + GRACE * 2, GRACE) == []
    assert [message.dead_letter_id for message in outbound.published] == [letter.id]
    assert row(mortuary, letter.id).requeue_published_at == LATER
    assert row(mortuary, letter.id).requeued_by == "ann"
    finished, claimed = trail(mortuary, letter.id)
    assert (finished.at, finished.actor, finished.action) == (LATER, "guardian", "requeue")
    assert (finished.reason, finished.outcome) == ("repaired", "finished")
    assert finished.before == finished.after == {"state": "requeued", "generation": 1}
    assert (claimed.actor, claimed.outcome) == ("ann", "done")
    with mortuary.store.begin() as conn:
        moves.confirm_recovered(conn, letter.id, 1, LATER)
    assert len(trail(mortuary, letter.id)) == 2, "a recovery is nobody's action"


def test_an_abandoned_claim_of_what_runs_at_most_once_is_dead_again_and_not_published(mortuary: Mortuary) -> None:
    """Whoever claimed it may have published it before it died."""
    early, late, outbound = mortuary.archive_new(policy={"acks": "early"}), mortuary.archive_new(), Outbound()
    for letter in (early, late):
        transition.claim_requeue(mortuary.store, letter.id, "ann", "repaired", NOW)
    results = {done.id: done.error for done in finish_requeues(mortuary.store, outbound, LATER, GRACE)}
    assert [(message.dead_letter_id, message.once) for message in outbound.published] == [(late.id, False)]
    assert "it may have been published" in str(results[early.id])
    assert row(mortuary, early.id).state is State.DEAD
    assert trail(mortuary, early.id)[0].outcome == "failed"
    requeue(mortuary.store, outbound, early.id, "bob", "it has not run", LATER)
    assert outbound.published[-1].once


@pytest.mark.parametrize("refused", [False, True])
def test_an_abandoned_claim_whose_work_reports_meanwhile_is_finished(mortuary: Mortuary, refused: bool) -> None:
    letter = mortuary.archive_new()
    transition.claim_requeue(mortuary.store, letter.id, "ann", "repaired", NOW)

    def run_at_once(message: ReplayMessage) -> None:
        with mortuary.store.begin() as conn:
            moves.confirm_recovered(conn, message.dead_letter_id, 1, LATER)
        if refused:
            refuse(message)

    assert finish_requeues(mortuary.store, Outbound(run_at_once), LATER, GRACE) == [Finished(letter.id, 1)]
    assert row(mortuary, letter.id).state is State.RECOVERED
    assert [entry.outcome for entry in trail(mortuary, letter.id)] == ["finished", "done"]


def test_an_abandoned_claim_that_the_broker_refuses_is_dead_again_and_blocks_no_other(mortuary: Mortuary) -> None:
    bad, good = mortuary.archive_new(queue="gone"), mortuary.archive_new()
    for letter in (bad, good):
        transition.claim_requeue(mortuary.store, letter.id, "ann", "repaired", NOW)
    outbound = Outbound(lambda message: refuse(message) if message.queue == "gone" else None)
    results = {done.id: done.error for done in finish_requeues(mortuary.store, outbound, LATER, GRACE)}
    assert results[good.id] is None
    assert "unroutable" in str(results[bad.id])
    assert (row(mortuary, bad.id).state, row(mortuary, good.id).state) == (State.DEAD, State.REQUEUED)
    failed, claimed = trail(mortuary, bad.id)
    assert (failed.actor, failed.action, failed.reason, failed.outcome) == (
        "guardian", "requeue", "repaired", "failed",
    )  # fmt: skip
    assert (failed.after["state"], failed.after["generation"], claimed.actor) == ("dead", 0, "ann")
    assert "unroutable" in failed.after["error"]


def test_an_abandoned_claim_is_taken_over_by_one_guardian(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    transition.claim_requeue(mortuary.store, letter.id, "ann", "repaired", NOW)
    assert transition.take_over(mortuary.store, letter.id, LATER - GRACE, LATER) is not None
    assert transition.take_over(mortuary.store, letter.id, LATER - GRACE, LATER) is None


def test_a_store_that_fails_after_the_publish_leaves_it_to_the_guardian(mortuary: Mortuary, monkeypatch) -> None:
    letter, outbound = mortuary.archive_new(), Outbound()

    def fail(*args: object) -> None:
        raise StoreError(mortuary.store.url, "gone")

    monkeypatch.setattr("celery_guardrails.recovery.requeue.requeue_published", fail)
    with pytest.raises(StoreError):
        requeue(mortuary.store, outbound, letter.id, "ann", "repaired", NOW)
    monkeypatch.undo()
    assert [entry.outcome for entry in trail(mortuary, letter.id)] == ["done"]
    finish_requeues(mortuary.store, outbound, LATER, GRACE)
    assert [entry.outcome for entry in trail(mortuary, letter.id)] == ["finished", "done"]
    first, second = outbound.published
    assert (first.body, first.headers["guardrails"]["generation"]) == (
        second.body, second.headers["guardrails"]["generation"],
    )  # fmt: skip


def test_discard_and_restore(mortuary: Mortuary) -> None:
    letter = mortuary.archive_new()
    gone = transition.discard(mortuary.store, letter.id[:10], "ann", "obsolete", NOW)
    assert (gone.state, gone.resolved_at) == (State.DISCARDED, NOW)
    with pytest.raises(InvalidTransition, match="was discarded at 2026-11-22 12:00:00 UTC: restore it first"):
        requeue(mortuary.store, Outbound(), letter.id, "bob", "repaired", NOW)
    with pytest.raises(InvalidTransition, match="cannot be discarded"):
        transition.discard(mortuary.store, letter.id, "bob", "obsolete", NOW)
    back = transition.restore(mortuary.store, letter.id, "bob", "needed after all", LATER)
    assert (back.state, back.resolved_at, back.generation) == (State.DEAD, None, 0)
    with pytest.raises(InvalidTransition, match="cannot be restored: it is dead already"):
        transition.restore(mortuary.store, letter.id, "bob", "again", LATER)
    assert [(entry.action, entry.actor) for entry in trail(mortuary, letter.id)] == [
        ("restore", "bob"),
        ("discard", "ann"),
    ]


def test_a_second_requeue_after_a_regression_has_the_next_generation(mortuary: Mortuary) -> None:
    letter, outbound = mortuary.archive_new(), Outbound()
    requeue(mortuary.store, outbound, letter.id, "ann", "repaired", NOW)
    again = mortuary.further(letter, 1, task_id=letter.task_id)
    mortuary.archive(again)
    assert requeue(mortuary.store, outbound, letter.id, "ann", "really repaired", LATER).generation == 2
    assert outbound.published[-1].headers["guardrails"]["dead_letter_id"] == letter.id
    assert row(mortuary, letter.id).death_id == again.id
