"""Early work, and a worker that is killed at the worst instants: all of it ends, and none of it runs twice."""

from __future__ import annotations

import random
import signal
import time
from functools import partial

import pytest

from celery_guardrails.letters.record import Letter
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.integration.worker.test_journal import POOLS, kept, kill, wait_until_nothing_is_kept
from tests.integration.worker.test_unanswered import confirmed
from tests.rabbitmq import RabbitMQServer
from tests.waiting import wait_until


def letters(losing: Guarded) -> list[Letter]:
    """Those that have come so far."""
    losing._receive()
    return losing._letters


def begun(losing: Guarded, keys: list[str]) -> int:
    return sum(bool(losing.runs(key)) for key in keys)


def begins(losing: Guarded, keys: list[str], count: int) -> bool:
    return begun(losing, keys) >= count


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_is_killed_before_its_broker_answers(losing: Guarded, broker: Broker, pool: str) -> None:
    """It has written the entry, and sent the acknowledgement: nobody knows whether the broker takes it."""
    worker = losing.worker("-c", "1", pool=pool)
    losing.finish()
    worker.signal(signal.SIGSTOP)
    with confirmed(losing) as connection:
        losing.tasks.early.apply_async(("doubt", "return"), connection=connection)
    time.sleep(1)  # it is with the worker, as bytes that nobody has read
    broker.server.pause()
    worker.signal(signal.SIGCONT)
    wait_until(lambda: kept(losing), 30, "an entry in the journal")
    kill(worker)
    broker.server.resume()
    losing.worker("-c", "1", pool=pool)
    wait_until(lambda: letters(losing) or losing.runs("doubt"), 60, "a letter or a run")
    wait_until_nothing_is_kept(losing)
    losing.finish()
    found = letters(losing)
    assert all("its broker may deliver it again" in letter.explanation for letter in found)
    if isinstance(broker.server, RabbitMQServer):
        assert len(found) == 1
        assert len(losing.runs("doubt")) <= 1
    else:  # it can be asked
        assert len(found) + len(losing.runs("doubt")) == 1


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_whatever_runs_when_workers_are_killed_is_done_or_a_letter(losing: Guarded, pool: str) -> None:
    rng, keys = random.Random(3), [f"work-{number}" for number in range(120)]
    ids = {losing.tasks.slow_early.delay(key, rng.uniform(0, 0.2)).id: key for key in keys}
    for _ in range(4):
        enough = begun(losing, keys) + 4
        worker = losing.worker("-c", "4", pool=pool)
        wait_until(partial(begins, losing, keys, enough), 60, "some work to begin")
        time.sleep(rng.uniform(0, 0.3))
        kill(worker)
    losing.worker("-c", "4", pool=pool)

    def unsettled() -> list[str]:
        dead = {ids[letter.task_id] for letter in letters(losing)}
        return [key for key in keys if key not in dead and not losing.runs(f"{key}.done")]

    wait_until(lambda: not unsettled(), 90, lambda: f"an end of {unsettled()}")
    losing.finish()
    wait_until_nothing_is_kept(losing)
    assert max(len(losing.runs(key)) for key in keys) == 1
    assert {letter.reason.value for letter in letters(losing)} == {"worker_lost"}
    assert len({letter.id for letter in letters(losing)}) == len({letter.task_id for letter in letters(losing)})
