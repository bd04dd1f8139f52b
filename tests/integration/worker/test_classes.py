"""Consumer and pool classes of an application's own: guardrails' are mixed over them, and theirs go on working."""

from __future__ import annotations

import json
import signal

import pytest

from celery_guardrails.policy.decision import Reason
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness
from tests.published import publish, task_message

OWN = {"worker_consumer": "tests.apps.classed:OwnConsumer", "worker_pool": "tests.apps.classed:OwnPool"}


@pytest.fixture
def classed(broker: Broker, harness: Harness, result_backend: str) -> Guarded:
    return Guarded(harness, broker.url, result_backend, {}, "classed")


def test_own_classes_named_by_path_are_kept_and_guarded(classed: Guarded) -> None:
    worker = classed.worker(env={"CLASSED_CONF": json.dumps(OWN)})
    publish(classed.app, f"{classed.prefix}.tasks", [task_message("shop.gone", ("a",))])
    assert classed.letter().reason is Reason.UNKNOWN_TASK
    for task in (classed.tasks.heard, classed.tasks.early):
        task.delay(task.name)
        classed.wait_for_runs(task.name, 1)
    stats = next(iter((classed.app.control.inspect(timeout=30).stats() or {}).values()))
    assert stats["pool"]["implementation"] == "tests.apps.classed:OwnPool"
    worker.signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    log = worker.log()
    assert [log.count(f"own {what}") for what in ("consumer: an unknown task", "pool: starts")] == [1, 1]
    assert "own consumer: connects" in log
    assert "Unrecoverable error" not in log
    assert "is not under guard" not in log


def test_a_class_that_nobody_may_derive_from_is_used_as_it_is(
    redis_broker: Broker, harness: Harness, result_backend: str
) -> None:
    classed = Guarded(harness, redis_broker.url, result_backend, {}, "classed")
    conf = json.dumps({"worker_consumer": "tests.apps.classed:FinalConsumer"})
    worker = classed.worker(env={"CLASSED_CONF": conf})
    classed.tasks.heard.delay("plain")
    classed.wait_for_runs("plain", 1)
    assert worker.log().count("the worker's consumer class is not under guard: FinalConsumer is final") == 1
