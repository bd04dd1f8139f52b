"""Early work, and a worker that is killed at the worst instants: all of it ends, and none of it runs twice."""

from __future__ import annotations

import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness
from tests.integration.worker.test_journal import kept, kill, wait_until_nothing_is_kept
from tests.integration.worker.test_unanswered import confirmed
from tests.waiting import wait_until


@pytest.fixture
def losing_on_rabbitmq(rabbitmq_broker: Broker, harness: Harness, result_backend: str) -> Guarded:
    return Guarded(harness, rabbitmq_broker.url, result_backend, {}, "losing")


def begun(losing: Guarded, keys: list[str]) -> int:
    return sum(bool(losing.runs(key)) for key in keys)


def begins(losing: Guarded, keys: list[str], count: int) -> bool:
    return begun(losing, keys) >= count


def settled(losing: Guarded, key: str) -> None:
    """RabbitMQ cannot be asked whether it took the acknowledgement: the letter says so."""
    letter = losing.letter()
    assert letter.reason.value == "worker_lost"
    assert "the broker may deliver it again" in letter.explanation
    wait_until_nothing_is_kept(losing)
    losing.finish()
    losing.no_more_letters(1)
    assert len(losing.runs(key)) <= 1


@pytest.mark.own_servers
def test_a_worker_that_is_killed_before_its_broker_answers(
    rabbitmq_broker: Broker, losing_on_rabbitmq: Guarded
) -> None:
    """It has written the entry, and sent the acknowledgement: nobody knows whether the broker takes it."""
    losing = losing_on_rabbitmq
    worker = losing.worker("-c", "1")
    with confirmed(losing) as connection:
        for key in ("held", "doubt"):
            task = losing.tasks.until_go.apply_async((key,), connection=connection)
            worker.wait_for_log(f"[{task.id}] received")
            losing.wait_for_runs("held", 1)
    rabbitmq_broker.server.pause()
    (losing.runs_folder / "go").touch()
    wait_until(lambda: any(b"doubt" in Path(entry).read_bytes() for entry in kept(losing)), 30, "the second's entry")
    kill(worker)
    rabbitmq_broker.server.resume()
    losing.worker("-c", "1")
    settled(losing, "doubt")


@pytest.mark.own_servers
@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_the_same_in_other_pools(rabbitmq_broker: Broker, losing_on_rabbitmq: Guarded, pool: str) -> None:
    losing = losing_on_rabbitmq
    worker = losing.worker("-c", "1", pool=pool)
    losing.finish()
    worker.signal(signal.SIGSTOP)
    (losing.runs_folder / "go").touch()
    with confirmed(losing) as connection:
        losing.tasks.until_go.apply_async(("doubt",), connection=connection)
    time.sleep(1)  # it is with the worker, as bytes that nobody has read
    rabbitmq_broker.server.pause()
    worker.signal(signal.SIGCONT)
    wait_until(lambda: kept(losing), 30, "an entry in the journal")
    kill(worker)
    rabbitmq_broker.server.resume()
    losing.worker("-c", "1", pool=pool)
    settled(losing, "doubt")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_whatever_runs_when_workers_are_killed_is_done_or_a_letter(losing: Guarded, pool: str) -> None:
    rng, keys = random.Random(3), [f"work-{number}" for number in range(240)]
    ids = {losing.tasks.slow_early.delay(key, rng.uniform(0, 0.2)).id: key for key in keys}
    for _ in range(4):
        enough = min(begun(losing, keys) + 4, len(keys))  # a quick machine may have done them all by now
        worker = losing.worker("-c", "4", pool=pool)
        wait_until(partial(begins, losing, keys, enough), 60, "some work to begin")
        time.sleep(rng.uniform(0, 0.3))
        kill(worker)
    losing.worker("-c", "4", pool=pool)

    def unsettled() -> list[str]:
        dead = {ids[letter.task_id] for letter in losing.letters_so_far()}
        return [key for key in keys if key not in dead and not losing.runs(f"{key}.done")]

    wait_until(lambda: not unsettled(), 90, lambda: f"an end of {unsettled()}")
    losing.finish()
    wait_until_nothing_is_kept(losing)
    assert max(len(losing.runs(key)) for key in keys) == 1
    assert {letter.reason.value for letter in losing.letters_so_far()} == {"worker_lost"}
    assert len({letter.id for letter in losing.letters_so_far()}) == len(
        {letter.task_id for letter in losing.letters_so_far()}
    )
