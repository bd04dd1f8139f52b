"""Several works under one task id: each has its letter, its attempts and its recovery; one death has one letter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from tests.conftest import Broker
from tests.integration.worker.sharing import Sharing


@pytest.fixture
def plain(sharing: Sharing) -> Iterator[Celery]:
    """A producer that knows nothing of guardrails."""
    app = Celery("plain", broker=sharing.app.conf.broker_url, set_as_current=False)
    app.conf.task_default_queue = f"{sharing.prefix}.tasks"
    yield app
    app.close()


def test_each_publish_under_one_id_has_its_letter(sharing: Sharing) -> None:
    sharing.worker("-Q", f"{sharing.prefix}.tasks")
    sharing.break_("ada")
    for invoice in (101, 102, 103, 103, 103):
        sharing.tasks.bill.apply_async(("ada", invoice), task_id="bill-ada")
    letters = sharing.letters(5)
    assert {letter.task_id for letter in letters} == {"bill-ada"}
    assert len({letter.id for letter in letters}) == 5
    assert sorted(letter.preview.args for letter in letters) == [f"('ada', {n})" for n in (101, 102, 103, 103, 103)]
    assert all([attempt.number for attempt in letter.attempts] == [1, 2] for letter in letters)
    assert len(sharing.runs("ada")) == 10


def test_each_publish_by_code_without_guardrails_has_its_letter(sharing: Sharing, plain: Celery) -> None:
    sharing.worker("-Q", f"{sharing.prefix}.tasks")
    sharing.break_("ada")
    for invoice in (101, 102, 103, 103, 103):
        plain.send_task("sharing.bill", ("ada", invoice), task_id="bill-ada")
    letters = sharing.letters(5)
    assert len({letter.id for letter in letters}) == 5
    assert all([attempt.number for attempt in letter.attempts] == [1, 2] for letter in letters)
    assert len(sharing.runs("ada")) == 10


def test_a_death_that_is_reported_twice_has_one_letter(sharing: Sharing) -> None:
    """The worker dies after the letter is out, and before the acknowledgement: the message comes back."""
    sharing.worker("-c", "1", "-Q", f"{sharing.prefix}.tasks")
    sharing.tasks.killed.apply_async(("twice",), task_id="bill-ada")
    sharing.wait_for_runs("twice.on_failure", 1)
    sharing.worker("-c", "1", "-Q", f"{sharing.prefix}.tasks")
    sharing.wait_for_runs("twice.on_failure", 2)
    first, again = sharing.letters(2)
    assert first.id == again.id


def test_without_a_header_a_death_is_told_by_what_its_publisher_named(
    sharing: Sharing, plain: Celery, broker: Broker
) -> None:
    """On Redis kombu names each message. On RabbitMQ nobody does, unless the publisher: two letters beat none."""
    sharing.worker("-c", "1", "-Q", f"{sharing.prefix}.tasks")
    plain.send_task("sharing.killed", ("twice",), task_id="bill-ada")
    sharing.wait_for_runs("twice.on_failure", 1)
    sharing.worker("-c", "1", "-Q", f"{sharing.prefix}.tasks")
    sharing.wait_for_runs("twice.on_failure", 2)
    first, again = sharing.letters(2)
    assert (first.id == again.id) is (broker.name == "redis")


@pytest.mark.parametrize("sender", ["guarded", "plain"])
def test_a_new_publish_after_a_recovery_is_a_new_letter(sharing: Sharing, plain: Celery, sender: str) -> None:
    def send() -> None:
        if sender == "guarded":
            sharing.tasks.bill.apply_async(("ada", 101), task_id="bill-ada")
        else:
            plain.send_task("sharing.bill", ("ada", 101), task_id="bill-ada")

    sharing.worker("-Q", f"{sharing.prefix}.tasks")
    sharing.break_("ada")
    send()
    ((first, letter),) = sharing.archived(1).items()
    assert letter["state"] == "dead"
    sharing.requeue(first)  # in vain
    again = sharing.wait_for_state(first, "dead")
    assert again["generation"] == 1
    sharing.repair("ada")
    sharing.requeue(first)
    assert sharing.wait_for_state(first, "recovered")["generation"] == 2
    sharing.break_("ada")
    send()
    found = sharing.archived(2)
    (other,) = found.keys() - {first}
    assert (found[other]["state"], found[other]["generation"]) == ("dead", 0)
    assert found[first]["state"] == "recovered"
