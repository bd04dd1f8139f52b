"""Celery's own options on tasks, kept on real workers: what the task says is what happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from celery_guardrails.policy.decision import Reason
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness


@pytest.fixture
def optioned(redis_broker: Broker, harness: Harness, result_backend: str) -> Callable[..., Guarded]:
    """The application on Redis; keywords are added to Celery's configuration."""

    def make(settings: dict[str, Any] | None = None, task_cls: bool = True, **conf: Any) -> Guarded:
        harness.environment.update(OPTIONED_CONF=json.dumps(conf), OPTIONED_TASK_CLS="1" if task_cls else "")
        return Guarded(harness, redis_broker.url, result_backend, settings or {}, "optioned")

    return make


def end_of(result: Any) -> str:
    """What a task ended with, by name."""
    return type(result.get(timeout=60, propagate=False)).__name__


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_retries_by_hand_are_as_many_and_as_late_as_the_task_says(optioned: Callable[..., Guarded], pool: str) -> None:
    app = optioned()
    app.worker(pool=pool)
    tasks = {
        "plain": app.tasks.plain, "guarded": app.tasks.guarded, "adopted": app.tasks.adopted_by_hand,
        "bounded": app.tasks.bounded,
    }  # fmt: skip
    results = {key: task.delay(key) for key, task in tasks.items()}
    results["seven"] = app.tasks.seven.delay("seven", countdown=0)
    results["asked"] = app.tasks.guarded.delay("asked", countdown=0, max_retries=3)
    assert {key: end_of(result) for key, result in results.items()} == dict.fromkeys(results, "OSError")
    said = {key: [(run["retries"], run["max_retries"]) for run in app.runs(key)] for key in results}
    assert said == {
        "plain": [(0, 1), (1, 1)],
        "guarded": [(0, 1), (1, 1)],
        "adopted": [(0, 1), (1, 1)],
        "bounded": [(0, 2), (1, 2), (2, 2)],
        "seven": [(retries, 7) for retries in range(8)],
        "asked": [(retries, 1) for retries in range(4)],
    }
    letters = {letter.message.headers["argsrepr"]: letter for letter in app.letters(5)}
    assert {letter.reason for letter in letters.values()} == {Reason.ATTEMPTS_EXHAUSTED}
    for key in ("guarded", "adopted"):
        assert [attempt.delay for attempt in letters[f"('{key}',)"].attempts] == [1, None]


def test_automatic_retries_are_those_of_the_task(optioned: Callable[..., Guarded]) -> None:
    """A library's task, by its name and under `task_cls`: what it does not retry is run once."""
    app = optioned()
    app.worker()
    results = {
        (task.name, error): task.delay(f"{task.name}-{error}", error)
        for task in (app.tasks.by_class, app.tasks.adopted)
        for error in ("refused", "os", "key")
    }
    ends = {call: end_of(result) for call, result in results.items()}
    assert set(ends.values()) == {"CardRefused", "OSError", "KeyError"}
    runs = {call: len(app.runs("-".join(call))) for call in results}
    assert runs == {call: 2 if call[1] == "os" else 1 for call in results}
    assert {letter.reason for letter in app.letters(6)} == {Reason.ATTEMPTS_EXHAUSTED, Reason.PERMANENT_ERROR}


def test_under_the_kill_switch_celery_retries_as_ever(optioned: Callable[..., Guarded]) -> None:
    app = optioned({"enabled": False})
    app.worker()
    results = [task.delay(task.name, "os") for task in (app.tasks.by_class, app.tasks.adopted)]
    assert [end_of(result) for result in results] == ["OSError", "OSError"]
    assert [len(app.runs(name)) for name in ("own.automatic", "vendor.automatic")] == [2, 2]
    app.no_letters()


@pytest.mark.parametrize("pool", ["prefork", "solo"])
@pytest.mark.parametrize(
    ("conf", "late"),
    [
        ({}, [True, True]),
        ({"task_acks_late": False}, [False, False]),
        ({"task_annotations": {"own.guarded": {"acks_late": False}}}, [False, True]),
        ({"task_annotations": {"*": {"acks_late": False}}, "task_acks_late": True}, [False, False]),
    ],
)
def test_the_application_says_when_work_is_acknowledged(
    optioned: Callable[..., Guarded], pool: str, conf: dict[str, Any], late: list[bool]
) -> None:
    app = optioned(**conf)
    app.worker(pool=pool)
    for task in (app.tasks.guarded, app.tasks.adopted_by_hand):
        assert end_of(task.delay(task.name, countdown=0)) == "OSError"
    assert [app.runs(name)[0]["late"] for name in ("own.guarded", "vendor.by_hand")] == late
    shown = [
        json.loads(app.harness.run("tests.apps.optioned", "guardrails", "policy", name, "--json").stdout)
        for name in ("own.guarded", "vendor.by_hand")
    ]
    assert [found["policy"]["acks"] == "late" for found in shown] == late
    origin = {"own.guarded", "*"} & set(conf.get("task_annotations", {}))
    if origin:
        assert shown[0]["provenance"]["acks"] == "task_annotations (acks_late)"
    elif conf:
        assert shown[0]["provenance"]["acks"] == "task_acks_late"
