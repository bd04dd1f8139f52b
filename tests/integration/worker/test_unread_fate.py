"""What becomes of messages that never became a task: kept when nobody takes their letter, run when they can be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from kombu import Queue

from celery_guardrails import clock
from celery_guardrails.letters.replay import replay
from celery_guardrails.policy.decision import Reason
from celery_guardrails.transport.consumer import waiting
from celery_guardrails.transport.dead_letter import Replayer
from celery_guardrails.transport.publisher import Publisher
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.published import publish, task_message
from tests.waiting import wait_until


@contextmanager
def refused_dead_letters(guarded: Guarded, broker: Broker) -> Iterator[None]:
    """The broker takes no dead letter: what has the queue's name is something else."""
    name = f"{guarded.prefix}.dead"
    if broker.name == "redis":
        with redis.Redis.from_url(broker.url) as client:
            client.set(name, "not a list")
            yield
            client.delete(name)
        return
    with guarded.app.connection_for_write() as connection, connection.channel() as channel:
        queue = Queue(name, routing_key=name, durable=True, queue_arguments={"x-max-length": 5})(channel)
        queue.declare()
        yield
        queue.delete()


def test_without_broker_and_spool_it_stays_unacknowledged(guarded: Guarded, broker: Broker) -> None:
    spool = guarded.harness.folder / "no-directory"
    spool.touch()
    impatient = {"GUARDRAILS_DEAD_LETTER_SPOOL_DIR": str(spool)}
    queue = f"{guarded.prefix}.tasks"
    with refused_dead_letters(guarded, broker):
        worker = guarded.harness.worker("tests.apps.impatient", env=impatient)
        # more than the worker prefetches
        publish(guarded.app, queue, [task_message("shop.gone", (number,)) for number in range(20)])
        wait_until(lambda: worker.log().count("stays unacknowledged") >= 20, 30.0, "20 letters that nobody takes")
        guarded.finish()
        assert "unregistered task" not in worker.log()
        worker.stop(60)
        again = guarded.harness.worker("tests.apps.impatient", env=impatient)
        wait_until(lambda: again.log().count("stays unacknowledged") >= 1, 60.0, "a message that came again")
    letters = guarded.letters(20, bound=60)
    guarded.finish()
    assert len({letter.id for letter in letters}) == 20
    assert again.is_running


def test_an_unknown_task_runs_once_it_is_deployed(guarded: Guarded) -> None:
    guarded.harness.environment["FUZZ_PREFIX"] = guarded.prefix  # another application, on the same queues
    old = guarded.harness.worker("tests.apps.fuzzed", "-Q", f"{guarded.prefix}.tasks")
    guarded.tasks.heard.apply_async(kwargs={"key": "late"})
    letter = guarded.letter()
    assert (letter.reason, letter.task) == (Reason.UNKNOWN_TASK, "guarded.heard")
    assert letter.preview.kwargs == "(key: not shown)"
    old.stop()
    guarded.worker()
    publisher = Publisher(guarded.app)
    try:
        Replayer(guarded.app, publisher).publish(replay(letter, 1, letter.id, "t0ken", clock.now()))
        assert len(guarded.wait_for_runs("late", 1)) == 1
    finally:
        publisher.close()


@pytest.mark.parametrize("backend", ["redis://127.0.0.1:1/0"])
def test_a_result_backend_that_is_down_changes_nothing(broker: Broker, make_guarded: Any, backend: str) -> None:
    guarded = make_guarded(broker)
    worker = guarded.worker(env={"RESULT_BACKEND": backend})
    publish(guarded.app, f"{guarded.prefix}.tasks", [task_message("shop.gone"), task_message("shop.gone", id=...)])
    letters = guarded.letters(2, bound=60)
    assert {letter.reason for letter in letters} == {Reason.UNKNOWN_TASK}
    assert worker.is_running
    queue = f"{guarded.prefix}.tasks"
    wait_until(lambda: waiting(guarded.app, [queue]) == 0, 30.0, "an empty queue")
    worker.stop(60)
    assert waiting(guarded.app, [queue]) == 0
