"""A cold shutdown on pools that are no processes: nothing is acknowledged that did not run to its end."""

from __future__ import annotations

import signal

import pytest

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness
from tests.integration.worker.left import left
from tests.waiting import wait_until

KEYS = [f"work-{number}" for number in range(4)]


@pytest.mark.parametrize("pool", ["gevent", "threads", "solo"])
def test_late_work_comes_back_and_none_is_acknowledged_unrun(losing: Guarded, pool: str) -> None:
    """On threads and solo nobody can end a body, and what runs there may end well."""
    process = losing.worker("-c", "2", pool=pool)
    for key in KEYS:
        losing.tasks.slow.delay(key, 3)
    losing.wait_for_runs(KEYS[0], 1)
    if pool != "solo":
        # a signal while the main thread hands work to a pool of threads finds its locks held, and waits for ever
        wait_until(lambda: process.log().count("] received") == len(KEYS), 30, "all of it to be taken")
        losing.wait_for_runs(KEYS[1], 1)
    process.signal(signal.SIGQUIT)
    process.wait(40)
    again = losing.worker("-c", "2", pool=pool)
    for key in KEYS:
        losing.wait_for_runs(f"{key}.done", 1, 40)
    losing.no_letters()
    again.stop()
    assert left(losing) == 0


def test_what_gevent_has_acknowledged_early_is_dead_lettered_once(
    redis_broker: Broker, harness: Harness, result_backend: str
) -> None:
    """On RabbitMQ Celery's own handler may fail before it cancels anything: gevent lets it not wait for an answer."""
    losing = Guarded(harness, redis_broker.url, result_backend, {}, "losing")
    process = losing.worker(pool="gevent")
    gone = losing.tasks.slow_early.delay("gone", 60)
    losing.wait_for_runs("gone", 1)
    process.signal(signal.SIGQUIT)
    process.wait(40)
    losing.worker(pool="gevent")  # gevent lets nobody publish from a signal's handler: the letter was spooled
    losing.finish()
    letter = losing.letter()
    assert (letter.task_id, letter.reason.value) == (gone.id, "cancelled")
    assert len(losing.runs("gone")) == 1
    assert len(losing.letters(1)) == 1


@pytest.mark.parametrize("task", ["slow", "slow_early"])
def test_what_a_person_terminates_on_gevent_makes_no_letter_and_does_not_run_again(losing: Guarded, task: str) -> None:
    process = losing.worker(pool="gevent")
    revoked = getattr(losing.tasks, task).delay("revoked", 60)
    losing.wait_for_runs("revoked", 1)
    losing.app.control.revoke(revoked.id, terminate=True)
    wait_until(lambda: losing.app.AsyncResult(revoked.id).state == "REVOKED", 30, "it to be revoked")
    losing.no_letters()
    process.stop()
    assert left(losing) == 0
    assert len(losing.runs("revoked")) == 1
    assert losing.runs("revoked.done") == []
