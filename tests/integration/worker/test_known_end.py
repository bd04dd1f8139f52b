"""Work that ended while its broker was away, or ends after it: its message comes back, and does not run again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness
from tests.integration.worker.left import left
from tests.waiting import wait_until

pytestmark = pytest.mark.own_lines

ENDS = {"done": [0], "fail": [0, 1], "retry": [0, 1], "bug": [0]}
"""How a task ends, and the attempts that it has then had."""
POOLS = ("prefork", "threads", "gevent", "solo")


def impatient(losing: Guarded) -> dict[str, str]:
    """A worker's variables: little patience with a broker that is away."""
    losing.once_each()
    folder = str(losing.runs_folder / "spool")
    chosen = {"queue": f"{losing.prefix}.dead", "spool_dir": folder, "publish_timeout": 1}
    return {"GUARDED_SETTINGS": json.dumps({"dead_letter": chosen})}


def attempts(losing: Guarded, key: str) -> list[Any]:
    return [run["retries"] for run in losing.runs(key)]


@pytest.mark.parametrize("pool", POOLS)
def test_what_ends_while_its_broker_is_away_runs_once(losing: Guarded, broker: Broker, pool: str) -> None:
    ends = ("done",) if pool == "solo" else tuple(ENDS)
    worker = losing.worker("-c", "8", pool=pool, env=impatient(losing))
    for how in ends:
        losing.tasks.held_silent.delay(how, how)
        losing.wait_for_runs(how, 1)
    broker.server.stop()
    (losing.runs_folder / "go").touch()
    if "bug" in ends:
        worker.wait_for_log("is dead-lettered as")
    broker.server.start()
    for how in ends:
        wait_until(lambda: len(losing.runs(how)) >= len(ENDS[how]), 60, f"the attempts of {how}")  # noqa: B023
    losing.finish()
    losing.rest()
    if "bug" in ends:
        assert losing.letter().reason.value == "permanent_error"
    losing.finish()
    assert {how: attempts(losing, how) for how in ends} == {how: ENDS[how] for how in ends}
    assert worker.is_running


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_what_ends_after_its_broker_is_back_runs_once(losing: Guarded, broker: Broker, pool: str) -> None:
    expected = {**ENDS, "reject": [0, 0], **({"kill_child": [0, 1]} if pool == "prefork" else {})}
    worker = losing.worker("-c", "8", pool=pool, env=impatient(losing))
    for how in expected:
        losing.tasks.held_silent.delay(how, how)
        losing.wait_for_runs(how, 1)
    broker.server.stop()
    broker.server.start()
    losing.finish()  # what came back has come before this one
    (losing.runs_folder / "go").touch()
    for how, numbers in expected.items():
        wait_until(lambda: len(losing.runs(how)) >= len(numbers), 60, f"the attempts of {how}")  # noqa: B023
    assert losing.letter().reason.value == "permanent_error"
    losing.rest()
    assert {how: attempts(losing, how) for how in expected} == expected
    assert worker.is_running
    worker.stop()
    assert left(losing) == 0


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_what_a_lost_connection_cancels_runs_again_where_nobody_can_be_told(
    redis_broker: Broker, harness: Harness, pool: str
) -> None:
    losing = Guarded(harness, redis_broker.url, redis_broker.url, {}, "losing")
    worker = losing.worker("-c", "2", pool=pool, env={**impatient(losing), "CANCEL_ON_LOSS": "1"})
    losing.tasks.held.delay("key", "done")
    losing.wait_for_runs("key", 1)
    redis_broker.server.stop()
    worker.wait_for_log("could not be stored or reported")
    (losing.runs_folder / "go").touch()
    redis_broker.server.start()
    wait_until(lambda: len(losing.runs("key")) >= 2, 60, "it runs again")
    losing.finish()
    losing.rest()
    assert attempts(losing, "key") == [0, 0]
    losing.no_letters()
    assert worker.is_running


def test_a_worker_that_misses_its_heartbeats_meanwhile_runs_a_task_once(
    rabbitmq_broker: Broker, harness: Harness, result_backend: str
) -> None:
    losing = Guarded(harness, rabbitmq_broker.url, result_backend, {}, "losing")
    worker = losing.worker(pool="solo", env={"HEARTBEAT": "2"})
    losing.tasks.slow.apply_async(("long", 12), ignore_result=True)
    losing.wait_for_runs("long.done", 1)
    worker.wait_for_log("it has ended here before")
    losing.finish()
    assert len(losing.runs("long")) == 1
    worker.stop()
    assert left(losing) == 0
