"""A dead letter whose work another message has done meanwhile: the person is told, and a requeue gives the result."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery.bin.base import CLIContext

from celery_guardrails.cli import guardian, guardrails
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness
from tests.unit.cli.conftest import runner
from tests.waiting import wait_until


@pytest.fixture
def once(broker: Broker, harness: Harness, result_backend: str) -> Guarded:
    """The application on each broker, with its ledger in the archive."""
    return Guarded(harness, broker.url, result_backend, {}, "once")


def run(once: Guarded, *words: str) -> Any:
    """Run a command of the application in this process."""
    command = guardian if words[0] == "guardian" else guardrails
    return runner().invoke(command, list(words[1:]), obj=CLIContext(app=once.app, no_color=True, workdir=None))


def letters(once: Guarded) -> list[dict[str, Any]]:
    """The dead letters, once a guardian has archived what waits."""
    assert run(once, "guardian", "--once").exit_code == 0
    found: list[dict[str, Any]] = json.loads(run(once, "guardrails", "dlq", "list", "--json").stdout)
    return found


@pytest.mark.servers
def test_a_requeue_of_work_that_is_done_gives_its_result_without_running(once: Guarded) -> None:
    assert run(once, "guardian", "--once").exit_code == 0  # it makes the archive, which has the ledger
    once.worker("-c", "1")
    failed = once.tasks.charge.delay("a", "fail")
    once.wait_for_runs("a", 2)
    wait_until(lambda: letters(once), 60, "the dead letter")
    done = once.tasks.charge.delay("a")
    assert done.get(timeout=60) == {"key": "a", "run": 3}
    (letter,) = letters(once)

    refused = run(once, "guardrails", "dlq", "requeue", letter["id"], "--reason", "the bank is back")
    assert refused.exit_code == 2
    assert f"The work of {letter['id']} is done since" in refused.stderr
    assert f"as {done.id} " in refused.stderr
    shown = json.loads(run(once, "guardrails", "idempotency", "show", done.id, "--json").stdout or "{}")
    assert shown == {}  # the key is made of the arguments, not of the task id
    text = refused.stderr.partition("(key ")[2].partition(")")[0]
    shown = json.loads(run(once, "guardrails", "idempotency", "show", text, "--json").stdout)
    assert (shown["state"], shown["task_id"], shown["result_kept"]) == ("done", done.id, "here")

    put_back = run(once, "guardrails", "dlq", "requeue", letter["id"], "--reason", "the bank is back", "--yes")
    assert put_back.exit_code == 0
    wait_until(lambda: letters(once)[0]["state"] == "recovered", 60, "the recovery")
    # `get` would see the failure first, of which Redis has sent this process word
    wait_until(lambda: once.app.backend.get_task_meta(failed.id)["status"] == "SUCCESS", 60, "its result")
    assert once.app.backend.get_task_meta(failed.id)["result"] == {"key": "a", "run": 3}
    assert len(once.runs("a")) == 3


@pytest.mark.servers
def test_work_that_is_forgotten_is_done_again(once: Guarded) -> None:
    assert run(once, "guardian", "--once").exit_code == 0
    once.worker("-c", "1")
    assert once.tasks.charge.apply_async(("a",), idempotency_key="order-1").get(timeout=60) == {"key": "a", "run": 1}
    assert once.tasks.charge.apply_async(("a",), idempotency_key="order-1").get(timeout=60) == {"key": "a", "run": 1}
    assert run(once, "guardrails", "idempotency", "forget", "order-1", "--reason", "wrong card").exit_code == 0
    assert once.tasks.charge.apply_async(("a",), idempotency_key="order-1").get(timeout=60) == {"key": "a", "run": 2}
