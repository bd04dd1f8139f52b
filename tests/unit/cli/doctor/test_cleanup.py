"""What is left of a self-test that ended early, and that it is taken away."""

from __future__ import annotations

from celery_guardrails import clock
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.self_test.cleanup import Left
from celery_guardrails.cli.doctor.self_test.task import Journal, canary_queue
from celery_guardrails.cli.project import Project
from celery_guardrails.recovery import search, transition
from tests.unit.cli.conftest import Shop
from tests.unit.cli.deaths import dead


def left(shop: Shop) -> Left:
    context = Context(Project(shop.app), online=False)
    canary_queue(shop.app, "canary")
    made = Left(context, "canary", "task-1")
    made.declared = made.sent = True
    made.letter = search.get(context.project.archive, dead(1).id).summary
    return made


def test_a_letter_that_is_still_dead_is_discarded(shop: Shop) -> None:
    store = shop.archive(dead(1))
    assert left(shop).clean_up() == "the queue is deleted; its dead letter is discarded"
    assert search.get(store, dead(1).id).summary.state == "discarded"
    assert shop.json("dlq", "show", dead(1).id)["audit"][0]["reason"] == "doctor --self-test"
    assert "stays as it is" in left(shop).clean_up()


def test_work_that_was_put_back_and_never_ran_is_named(shop: Shop) -> None:
    store = shop.archive(dead(1))
    transition.claim_requeue(store, dead(1).id, "ada", "x", clock.now())
    assert f"its dead letter {dead(1).id} stays requeued" in left(shop).clean_up()


def test_a_letter_that_is_not_archived_yet(shop: Shop) -> None:
    shop.archive(dead(1))
    early = left(shop)
    early.letter = None
    assert "archives it later, and nobody is alerted" in early.clean_up()
    early.sent = False
    assert early.clean_up() == "the queue is deleted; nothing was sent"


def test_the_journal_of_a_worker_that_said_nothing(shop: Shop) -> None:
    assert Journal(shop.path.parent / "none").find("ready") is None
