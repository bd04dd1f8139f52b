"""The broker goes away while tasks fail: letters and retries are spooled, and end as if nothing had happened."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from celery_guardrails.policy.decision import Reason
from celery_guardrails.transport.spool import Spool
from tests.conftest import Broker
from tests.guarded import APP, Guarded
from tests.harness import Process
from tests.waiting import wait_until

pytestmark = pytest.mark.own_lines

EARLY_DEAD, EARLY_AGAIN, LATE_DEAD, LATE_AGAIN = KEYS = ("early-dead", "early-again", "late-dead", "late-again")
IMPATIENT = {"queue": "impatient.dead", "publish_timeout": 1}


def impatient(made: Guarded) -> Guarded:
    """Finds its letters in the queue that `IMPATIENT` names."""
    made.prefix = "impatient"
    made.once_each()
    return made


@pytest.fixture
def guarded(broker: Broker, make_guarded: Callable[..., Guarded]) -> Guarded:
    """On either broker, with little patience."""
    return impatient(make_guarded(broker, dead_letter=IMPATIENT))


@pytest.fixture
def on_redis(redis_broker: Broker, make_guarded: Callable[..., Guarded]) -> Guarded:
    """On Redis, with little patience."""
    return impatient(make_guarded(redis_broker, dead_letter=IMPATIENT))


def spool_of(guarded: Guarded) -> Spool:
    return Spool(guarded.harness.folder / "guardrails.spool", 1 << 30, "guarded")


def hold(guarded: Guarded) -> None:
    """Have one task of each kind running: early or late acks, dying or to be tried again."""
    for key in KEYS:
        held = guarded.tasks.held_early if key.startswith("early") else guarded.tasks.held_late
        held.delay(key, key.endswith("dead"))
    for key in KEYS:
        guarded.wait_for_runs(key, 1)


def fail_without_broker(guarded: Guarded, broker: Broker) -> None:
    """Stop the broker, let the tasks fail, and wait until all that they leave is spooled."""
    broker.server.stop()
    (guarded.runs_folder / "go").touch()
    spool = spool_of(guarded)
    wait_until(lambda: spool.status().entries == 4, 60, lambda: f"four entries: {list(spool.entries())}")
    assert sorted(found.letter for _, found in spool.entries()) == [False, False, True, True]


def kill(worker: Process) -> None:
    """Kill a worker that has done with all four tasks: its journal must not take one of them for lost."""
    ends = re.compile(r"held_\w+\[([\w-]+)\].*(?:raised unexpected|could not be stored| retry: )")
    wait_until(lambda: len(set(ends.findall(worker.log()))) == 4, 60, "Celery has logged four ends")
    worker.kill()


def wait_for_the_end(guarded: Guarded, broker: Broker, worker: Process | None) -> None:
    """The spool is empty, what was to be tried again ran again, and what died did so."""
    wait_until(lambda: spool_of(guarded).is_empty(), 60, "an empty spool")
    guarded.wait_for_runs(EARLY_AGAIN, 2)
    guarded.wait_for_runs(LATE_AGAIN, 2)
    assert len(guarded.runs(EARLY_DEAD)) == 1
    assert len(guarded.runs(EARLY_AGAIN)) == 2
    if worker is not None:
        assert worker.is_running


def assert_letters(guarded: Guarded) -> None:
    wait_until(lambda: len({letter.id for letter in guarded.letters(1)}) == 2, 30, "the letters of both that died")
    assert {letter.task for letter in guarded.letters(1)} == {"guarded.held_early", "guarded.held_late"}
    assert {letter.reason for letter in guarded.letters(1)} == {Reason.PERMANENT_ERROR}


def test_the_same_worker_ships_when_the_broker_is_back(guarded: Guarded, broker: Broker) -> None:
    worker = guarded.worker("-c", "4")
    hold(guarded)
    fail_without_broker(guarded, broker)
    broker.server.start()
    wait_for_the_end(guarded, broker, worker)
    assert_letters(guarded)
    assert "4 shipped from the spool" in worker.log()
    guarded.finish()


def test_another_worker_ships_what_a_killed_one_left(guarded: Guarded, broker: Broker) -> None:
    worker = guarded.worker("-c", "4")
    hold(guarded)
    fail_without_broker(guarded, broker)
    kill(worker)
    broker.server.start()
    another = guarded.worker("-c", "4", pool="threads")
    wait_for_the_end(guarded, broker, another)
    assert_letters(guarded)


def test_a_guardian_ships_and_archives_in_one_run(guarded: Guarded, broker: Broker) -> None:
    worker = guarded.worker("-c", "4")
    hold(guarded)
    fail_without_broker(guarded, broker)
    kill(worker)
    broker.server.start()
    once = guarded.harness.run(APP, "guardian", "--once", "--json")
    assert once.returncode == 0, once.stderr
    assert json.loads(once.stdout)["archived"] == 2
    assert spool_of(guarded).is_empty()
    listed = guarded.harness.run(APP, "guardrails", "dlq", "list", "--json")
    assert {letter["task"] for letter in json.loads(listed.stdout)} == {"guarded.held_early", "guarded.held_late"}
    guarded.worker("-c", "4")
    wait_for_the_end(guarded, broker, None)


def test_a_guardian_that_runs_ships_when_the_broker_is_back(on_redis: Guarded, redis_broker: Broker) -> None:
    worker = on_redis.worker("-c", "4")
    guardian = on_redis.harness.guardian(APP, ready="guardian started")
    hold(on_redis)
    fail_without_broker(on_redis, redis_broker)
    kill(worker)
    redis_broker.server.start()
    wait_until(lambda: spool_of(on_redis).is_empty(), 90, "an empty spool")
    assert "4 shipped from the spool" in guardian.log()
    assert guardian.stop() == 0


def test_with_a_full_spool_the_message_stays_with_the_broker(
    rabbitmq_broker: Broker, make_guarded: Callable[..., Guarded]
) -> None:
    guarded = impatient(make_guarded(rabbitmq_broker, dead_letter={**IMPATIENT, "spool_limit": 9}))
    worker = guarded.worker("-c", "2")
    guarded.tasks.held_late.delay(LATE_DEAD, True)
    guarded.tasks.held_late.delay(LATE_AGAIN, False)
    for key in (LATE_DEAD, LATE_AGAIN):
        guarded.wait_for_runs(key, 1)
    rabbitmq_broker.server.stop()
    (guarded.runs_folder / "go").touch()
    worker.wait_for_log("it is full, 0 of 9 bytes are taken")
    wait_until(lambda: worker.log().count("goes back to its queue: ") == 2, 60, "both go back")
    rabbitmq_broker.server.start()
    guarded.wait_for_runs(LATE_DEAD, 2, 60)
    guarded.wait_for_runs(LATE_AGAIN, 2, 60)
    assert guarded.letter().task == "guarded.held_late"
    assert worker.is_running


def test_the_spool_is_shipped_though_guardrails_are_off(on_redis: Guarded, redis_broker: Broker) -> None:
    worker = on_redis.worker("-c", "4")
    hold(on_redis)
    fail_without_broker(on_redis, redis_broker)
    kill(worker)
    redis_broker.server.start()
    on_redis.worker("-c", "4", pool="solo", env={"GUARDRAILS_ENABLED": "false"})
    wait_until(lambda: spool_of(on_redis).is_empty(), 60, "an empty spool")
    assert_letters(on_redis)
