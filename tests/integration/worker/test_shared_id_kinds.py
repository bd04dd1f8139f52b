"""What gives one task id to several works: replacements, copies of one publish, a task that sends itself again."""

from __future__ import annotations

import pytest
from celery import chord

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.cli.cancel import cancelled_letter
from celery_guardrails.letters.header import HEADER
from celery_guardrails.letters.record import letter_id
from celery_guardrails.letters.work import Work
from celery_guardrails.policy.decision import Reason
from tests.integration.worker.sharing import Sharing


@pytest.mark.parametrize("kind", ["task", "group"])
def test_a_requeued_task_that_hands_over_has_recovered(sharing: Sharing, kind: str) -> None:
    """Its replacement, in a chain, dies: work of its own, under the same task id. Put back, it lets the chain go on."""
    sharing.worker("-Q", f"{sharing.prefix}.tasks")
    sharing.break_("k")
    sharing.break_("k.second")
    (sharing.tasks.first.si("k", kind) | sharing.tasks.third.s(key="k")).apply_async()
    ((first, letter),) = sharing.archived(1).items()
    sharing.repair("k")
    sharing.requeue(first)
    count = 1 if kind == "task" else 2
    sharing.wait_for_state(first, "recovered")
    found = sharing.archived(1 + count)
    others = [found[id] for id in found if id != first]
    assert found[first]["state"] == "recovered"
    assert {(other["state"], other["task"], other["generation"]) for other in others} == {("dead", "sharing.second", 0)}
    if kind == "task":
        assert others[0]["task_id"] == letter["task_id"]
        sharing.repair("k.second")
        sharing.requeue(others[0]["id"])
        sharing.wait_for_state(others[0]["id"], "recovered")
        sharing.wait_for_runs("k.third", 1)


def test_a_replacement_in_a_chord_is_work_of_its_own(sharing: Sharing) -> None:
    sharing.worker("-Q", f"{sharing.prefix}.tasks")
    sharing.break_("k")
    chord([sharing.tasks.first.si("k"), sharing.tasks.heard.si("part")])(sharing.tasks.third.s(key="k"))
    ((first, _),) = sharing.archived(1).items()
    sharing.repair("k")
    sharing.break_("k.second")
    sharing.requeue(first)
    sharing.wait_for_state(first, "recovered")
    found = sharing.archived(2)
    (other,) = (found[id] for id in found if id != first)
    assert (other["task"], other["state"]) == ("sharing.second", "dead")


def test_a_replacement_inherits_no_history(sharing: Sharing) -> None:
    sharing.worker("-Q", f"{sharing.prefix}.tasks")
    sharing.break_("k")
    sharing.tasks.first.delay("k")
    ((first, _),) = sharing.archived(1).items()
    sharing.repair("k")
    sharing.break_("k.second")
    sharing.requeue(first)
    found = sharing.archived(2)
    (other,) = found.keys() - {first}
    assert [attempt["number"] for attempt in sharing.show(other)["attempts"]] == [1]
    assert len(sharing.show(first)["attempts"]) == 1


def test_every_copy_of_a_broadcast_has_its_letter(sharing: Sharing) -> None:
    queue, exchange = f"{sharing.prefix}.news", sharing.tasks.news.exchange
    sharing.break_("news.second")
    workers = [sharing.worker("-c", "1", "-Q", f"{queue},{sharing.prefix}.tasks") for _ in range(2)]
    for _ in range(2):
        # kombu's producer on Redis knows only the exchanges that it has declared
        sharing.tasks.second.apply_async(("news",), queue=queue, task_id="news-1", declare=[exchange])
    letters = sharing.letters(4)
    assert {letter.task_id for letter in letters} == {"news-1"}
    assert len({letter.id for letter in letters}) == 4
    assert len(sharing.runs("news.second")) == 4
    assert all(worker.log().count("is dead-lettered") == 2 for worker in workers)


def test_every_queue_of_an_exchange_has_its_letter(sharing: Sharing) -> None:
    sharing.break_("order")
    sharing.worker("-Q", f"{sharing.prefix}.one,{sharing.prefix}.two")
    exchange = sharing.tasks.topic
    sharing.tasks.bill.apply_async(("order",), exchange=exchange, routing_key="order.new", declare=[exchange])
    letters = sharing.letters(2)
    assert {letter.queue for letter in letters} == {f"{sharing.prefix}.one", f"{sharing.prefix}.two"}
    assert len({letter.id for letter in letters}) == 2
    assert len(sharing.runs("order")) == 4


def test_a_task_that_sends_itself_again_is_several_works(sharing: Sharing) -> None:
    sharing.worker("-Q", f"{sharing.prefix}.tasks")
    sharing.tasks.once_more.apply_async(("k",), task_id="again-1")
    letters = sharing.letters(3)
    assert {letter.task_id for letter in letters} == {"again-1"}
    assert len({letter.id for letter in letters}) == 3
    assert sorted(run["round"] for run in sharing.runs("k")) == [0, 1, 2]


def test_a_letter_from_before_works_were_named_is_found_again(sharing: Sharing) -> None:
    """Its id and its message are older: the requeue, a further death and the recovery are its own."""
    sharing.worker("-Q", f"{sharing.prefix}.tasks")
    sharing.break_("old")
    sharing.tasks.bill.delay("old", 7)
    letter = sharing.letter()
    headers = {**letter.message.headers, HEADER: {"v": 1, "published_at": clock.now().timestamp()}}
    message = letter.message.model_copy(update={"headers": headers})
    older = letter.model_copy(update={"id": "11111111-1111-5111-8111-111111111111", "message": message})
    guard = Guardrails.of(sharing.app)
    for _ in range(2):
        guard.dead_letters.send(older, None)
    assert list(sharing.archived(1)) == [older.id]
    sharing.requeue(older.id)
    assert sharing.wait_for_state(older.id, "dead")["generation"] == 1
    sharing.repair("old")
    sharing.requeue(older.id)
    assert sharing.wait_for_state(older.id, "recovered")["generation"] == 2
    assert list(sharing.archived(1)) == [older.id]


def test_cancelling_what_waits_makes_the_id_of_its_work(sharing_on_redis: Sharing) -> None:
    sharing = sharing_on_redis
    guard = Guardrails.of(sharing.app)
    for _ in range(2):
        sharing.tasks.bill.apply_async(("ada", 1), task_id="bill-ada", countdown=3600)
    waiting = guard.waiting.find("bill-ada")
    made = [[cancelled_letter(guard, each, "ada", "x", clock.now())[0].id for _ in range(2)] for each in waiting]
    assert [len(set(ids)) for ids in made] == [1, 1]
    assert made[0] != made[1]
    for each, (id, _) in zip(waiting, made, strict=True):
        publish = each.envelope.headers[HEADER]["work"]
        work = Work("bill-ada", "sharing.bill", f"{sharing.prefix}.tasks", publish)
        assert id == letter_id(work, 1, 0, Reason.CANCELLED)
    guard.waiting.remove([each.id for each in waiting])
