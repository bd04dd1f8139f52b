"""Several works under one task id: each has its letter, its attempts and its recovery; one death has one letter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness
from tests.waiting import wait_until

APP = "tests.apps.sharing"


@pytest.fixture
def sharing(broker: Broker, harness: Harness, result_backend: str) -> Guarded:
    """The sharing application, on Redis and on RabbitMQ; Redis gives a lost worker's messages back soon."""
    harness.environment.update(VISIBILITY_TIMEOUT="2")
    return Guarded(harness, broker.url, result_backend, {}, "sharing")


@pytest.fixture
def plain(sharing: Guarded) -> Iterator[Celery]:
    """A producer that knows nothing of guardrails."""
    app = Celery("plain", broker=sharing.app.conf.broker_url, set_as_current=False)
    app.conf.task_default_queue = f"{sharing.prefix}.tasks"
    yield app
    app.close()


def archived(sharing: Guarded, count: int) -> dict[str, dict[str, Any]]:
    """What is in the archive, by id, when it has taken so many new letters or other news."""
    found: list[dict[str, Any]] = []

    def taken() -> bool:
        sharing.harness.run(APP, "guardian", "--once")
        done = sharing.harness.run(APP, "guardrails", "dlq", "list", "--json", "--limit", "100")
        assert done.returncode == 0, done.stderr
        found[:] = json.loads(done.stdout)
        return len(found) >= count

    wait_until(taken, 90, lambda: f"{count} letters, there are {found}")
    return {letter["id"]: letter for letter in found}


def show(sharing: Guarded, id: str) -> dict[str, Any]:
    done = sharing.harness.run(APP, "guardrails", "dlq", "show", id, "--json")
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def requeue(sharing: Guarded, id: str) -> None:
    done = sharing.harness.run(APP, "guardrails", "dlq", "requeue", id, "--reason", "mended", "--yes", "--json")
    assert done.returncode == 0, done.stderr


def wait_for_state(sharing: Guarded, id: str, state: str) -> dict[str, Any]:
    """Wait until the archive says so of a letter."""

    def reached() -> bool:
        sharing.harness.run(APP, "guardian", "--once")
        return bool(show(sharing, id)["state"] == state)

    wait_until(reached, 90, f"{id} to be {state}")
    return show(sharing, id)


def test_each_publish_under_one_id_has_its_letter(sharing: Guarded) -> None:
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


def test_each_publish_by_code_without_guardrails_has_its_letter(sharing: Guarded, plain: Celery) -> None:
    sharing.worker("-Q", f"{sharing.prefix}.tasks")
    sharing.break_("ada")
    for invoice in (101, 102, 103, 103, 103):
        plain.send_task("sharing.bill", ("ada", invoice), task_id="bill-ada")
    letters = sharing.letters(5)
    assert len({letter.id for letter in letters}) == 5
    assert all([attempt.number for attempt in letter.attempts] == [1, 2] for letter in letters)
    assert len(sharing.runs("ada")) == 10


def test_a_death_that_is_reported_twice_has_one_letter(sharing: Guarded) -> None:
    """The worker dies after the letter is out, and before the acknowledgement: the message comes back."""
    sharing.worker("-c", "1", "-Q", f"{sharing.prefix}.tasks")
    sharing.tasks.killed.apply_async(("twice",), task_id="bill-ada")
    sharing.wait_for_runs("twice.on_failure", 1)
    sharing.worker("-c", "1", "-Q", f"{sharing.prefix}.tasks")
    sharing.wait_for_runs("twice.on_failure", 2)
    first, again = sharing.letters(2)
    assert first.id == again.id


def test_without_a_header_a_death_is_told_by_what_its_publisher_named(
    sharing: Guarded, plain: Celery, broker: Broker
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
def test_a_new_publish_after_a_recovery_is_a_new_letter(sharing: Guarded, plain: Celery, sender: str) -> None:
    def send() -> None:
        if sender == "guarded":
            sharing.tasks.bill.apply_async(("ada", 101), task_id="bill-ada")
        else:
            plain.send_task("sharing.bill", ("ada", 101), task_id="bill-ada")

    sharing.worker("-Q", f"{sharing.prefix}.tasks")
    sharing.break_("ada")
    send()
    ((first, letter),) = archived(sharing, 1).items()
    assert letter["state"] == "dead"
    requeue(sharing, first)  # in vain
    again = wait_for_state(sharing, first, "dead")
    assert again["generation"] == 1
    sharing.repair("ada")
    requeue(sharing, first)
    assert wait_for_state(sharing, first, "recovered")["generation"] == 2
    sharing.break_("ada")
    send()
    found = archived(sharing, 2)
    (other,) = found.keys() - {first}
    assert (found[other]["state"], found[other]["generation"]) == ("dead", 0)
    assert found[first]["state"] == "recovered"
