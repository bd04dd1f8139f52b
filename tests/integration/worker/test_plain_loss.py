"""What Celery alone does with what `test_runtime_loss.py` and `test_unread_messages.py` have dead-lettered.

It is why they need a guard: the message is gone from the broker and no hook of the task has been told, or with an empty
request; or one message stops every worker.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness
from tests.published import publish, task_message
from tests.waiting import wait_until

Make = Callable[[Broker], Guarded]

UNHEARD = [
    ("late", "exit"),
    ("late", "strange"),
    ("late", "kill_child"),
    ("late", "os_exit"),
    ("late", "reject"),
    ("early", "exit"),
    ("early", "kill_child"),
]


@pytest.fixture
def on(harness: Harness, result_backend: str) -> Iterator[Make]:
    """Makes the application on a broker."""
    with contextlib.ExitStack() as made:

        def make(broker: Broker) -> Guarded:
            plain = Guarded(harness, broker.url, result_backend, {}, "plainly")
            made.callback(plain.app.close)
            return plain

        yield make


@pytest.fixture
def plain(broker: Broker, on: Make) -> Guarded:
    return on(broker)


def left(plain: Guarded) -> int:
    """How many messages the broker holds for the application, once no worker runs; they are gone then."""
    with plain.app.connection_for_read() as connection, connection.channel() as channel:
        return int(channel.queue_purge(f"{plain.prefix}.tasks"))


def test_work_is_gone_and_no_hook_hears_of_it(plain: Guarded) -> None:
    for task, how in (*UNHEARD, ("limited", "hang")):
        getattr(plain.tasks, task).delay(f"{task}-{how}", how)
    worker = plain.worker()
    for task, how in (*UNHEARD, ("limited", "hang")):
        plain.wait_for_runs(f"{task}-{how}", 1)
    plain.finish()
    plain.rest()
    assert worker.stop(60) == 0
    assert left(plain) == 0
    assert [f"{task}-{how}" for task, how in UNHEARD if plain.runs(f"{task}-{how}.on_failure")] == []
    # of the time limit Celery 5.5 tells no hook either, Celery 5.7 one that cannot know of which task
    assert not [told for told in plain.runs("limited-hang.on_failure") if told["knows_its_request"]]


def test_memory_error_ends_the_whole_worker(plain: Guarded) -> None:
    worker = plain.worker()
    plain.tasks.late.delay("memory", "memory")
    wait_until(lambda: not worker.is_running, 30, "the worker's end")
    assert len(plain.runs("memory")) == 1


def test_a_task_that_kills_its_worker_runs_for_ever(plain: Guarded) -> None:
    plain.worker()
    plain.tasks.stubborn.delay("stubborn", "kill_child")
    assert len(plain.wait_for_runs("stubborn", 10, 60)) >= 10
    assert plain.runs("stubborn.on_failure") == []


UNREADABLE = task_message("plain.heard", ("unread",))
SHAPELESS = replace(UNREADABLE, body=json.dumps([[1]]).encode())


def test_what_never_becomes_a_task_is_gone(plain: Guarded) -> None:
    worker = plain.worker()
    rows = [
        task_message("shop.gone", ("unread",)),
        replace(UNREADABLE, body=b"{"),
        replace(UNREADABLE, content_type="application/x-python-serialize"),
        replace(UNREADABLE, headers={}),
        task_message("plain.heard", ("unread",), eta="soon"),
        task_message("plain.heard", ("unread",), ["no mapping"]),
    ]
    publish(plain.app, f"{plain.prefix}.tasks", rows)
    plain.finish()
    plain.rest()
    assert worker.stop(60) == 0
    assert left(plain) == 0
    assert plain.runs("unread") == []


def test_a_body_of_the_wrong_shape_ends_one_worker_after_the_other(redis_broker: Broker, on: Make) -> None:
    plain = on(redis_broker)
    first = plain.worker()
    publish(plain.app, f"{plain.prefix}.tasks", [SHAPELESS])
    wait_until(lambda: not first.is_running, 30, "its end")
    second = plain.worker()
    wait_until(lambda: not second.is_running, 30, "its end")
    assert left(plain) == 1


def test_a_body_of_the_wrong_shape_is_held_without_a_word(rabbitmq_broker: Broker, on: Make) -> None:
    plain = on(rabbitmq_broker)
    worker = plain.worker()
    publish(plain.app, f"{plain.prefix}.tasks", [SHAPELESS])
    plain.finish()
    assert re.findall("ERROR|CRITICAL|WARNING/", worker.log()) == []
    plain.rest()
    assert worker.stop(60) == 0
    assert left(plain) == 1


def test_a_message_without_id_blocks_its_queue(redis_broker: Broker, on: Make) -> None:
    plain = on(redis_broker)
    worker = plain.worker()
    publish(plain.app, f"{plain.prefix}.tasks", [task_message("plain.heard", ("unread",), id=...)])
    plain.tasks.heard.delay("behind")
    wait_until(lambda: worker.log().count("Trying to re-establish") >= 3, 60, "one connection after the other")
    assert plain.runs("behind") == []
