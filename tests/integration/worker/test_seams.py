"""Real workers on a Celery that lacks a name: one warning, and work goes on as in plain Celery; or no start at all."""

from __future__ import annotations

import json
import uuid

import pytest

from celery_guardrails.seams import SEAMS
from tests.conftest import Broker
from tests.guarded import APP, Guarded
from tests.harness import Process

pytestmark = pytest.mark.servers

ON_REDIS = ("_brpop_start", "_lookup", "on_job_process_down", "TraceInfo", "_active_writers", "consumer_cls")
ON_RABBITMQ = ("PROPERTY_CLASSES", "having_timeout", "_track_child_process", "on_unknown_task", "_apply_result")


def without(guarded: Guarded, name: str, *, wait: bool = True) -> Process:
    """Start a worker on a release of Celery in which a name is called something else."""
    node = f"w{uuid.uuid4().hex[:8]}@localhost"
    options = ("-l", "INFO", "-n", node, "-c", "2", "--without-mingle", "--without-gossip")
    process = guarded.harness.start_python("-m", "tests.seam.renamed", name, "-A", APP, "worker", *options)
    if wait:
        process.wait_for_log(f"{node} ready.", 120)
    return process


def works(guarded: Guarded, name: str) -> None:
    """A worker without a name runs tasks that succeed, fail and are acknowledged early, and warns once."""
    worker = without(guarded, name)
    guarded.tasks.heard.delay("heard")
    guarded.tasks.flaky.delay("flaky", 1)
    guarded.tasks.bug.delay("bug")
    guarded.wait_for_runs("heard", 1, 120)
    guarded.wait_for_runs("flaky", 2, 120)
    assert guarded.letter(120).task == "guarded.bug"
    assert worker.stop(60) == 0
    log = worker.log()
    assert log.count("lacks what celery-guardrails uses of it") == 1
    gone = [seam for seam in SEAMS if name in seam.name.replace(":", ".").split(".")]
    assert gone
    for seam in gone:
        assert seam.name in log
        assert all(f"{guard.name}: off" in log for guard in seam.guards)


@pytest.mark.parametrize("name", ON_REDIS)
def test_a_worker_on_redis_runs_without(name: str, on_redis: Guarded) -> None:
    works(on_redis, name)


@pytest.mark.parametrize("name", ON_RABBITMQ)
def test_a_worker_on_rabbitmq_runs_without(name: str, rabbitmq_broker: Broker, make_guarded: object) -> None:
    works(make_guarded(rabbitmq_broker), name)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["_on_ack", "on_timeout", "ExceptionWithTraceback"])
def test_a_worker_does_not_start_without_what_is_vital(name: str, on_redis: Guarded) -> None:
    worker = without(on_redis, name, wait=False)
    assert worker.wait(120) != 0
    log = worker.log()
    assert name in log
    assert "celery-guardrails" in log
    assert "pip install 'celery" in log


def test_doctor_shows_what_is_missing(on_redis: Guarded) -> None:
    ran = on_redis.harness.run_python(
        "-m", "tests.seam.renamed", "_brpop_start", "-A", APP, "guardrails", "doctor", "--json", bound=120
    )
    rows = [row for row in json.loads(ran.stdout) if row["check"] == "seams"]
    assert [row["level"] for row in rows] == ["warning"]
    assert "kombu.transport.redis:Channel._brpop_start is gone" in rows[0]["found"]
    assert "pip install" in rows[0]["fix"]
