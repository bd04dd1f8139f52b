"""A process that only publishes finalizes nothing: its tasks come under guard when they are registered."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task

from celery_guardrails import Constant, Guardrails
from celery_guardrails.app.in_force import effective_policy, is_guarded, under_guard_by
from celery_guardrails.letters.header import HEADER

NewApp = Callable[..., Celery]

GUARD: dict[str, Any] = {"guard": ["vendor.*"], "dead_letter": {"spool_dir": "/dev/null/spool"}}
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "retries": {"max_retries": 7, "default_retry_delay": 3},
    "automatic": {"autoretry_for": (ValueError,), "dont_autoretry_for": (UnicodeError,), "retry_backoff": 2},
    "late": {"acks_late": True},
    "early": {"acks_late": False},
}


@pytest.fixture
def publishing(new_app: NewApp) -> Celery:
    app = new_app(GUARD)
    app.conf.update(task_always_eager=False, task_default_queue="unit.tasks")
    return app


def vendor_task(app: Celery, **options: Any) -> Any:
    @app.task(shared=False, name="vendor.add", **options)
    def add(x: int = 0) -> int:
        return x

    return add


def test_a_task_that_is_sent_without_finalizing_is_guarded(publishing: Celery) -> None:
    Guardrails(publishing)
    add = vendor_task(publishing)
    add.delay(1)
    assert not publishing.finalized
    assert is_guarded(add)
    assert under_guard_by(add) == "guard pattern vendor.*"
    assert "published_at" in _sent(publishing)[HEADER]


def test_what_was_made_before_guardrails_came_is_guarded_then(publishing: Celery, quick: Any) -> None:
    add = vendor_task(publishing)
    assert not isinstance(add.delay, property)  # made now: nobody has named guardrails yet
    assert not is_guarded(add)

    @quick(publishing)
    def ours() -> None: ...

    assert ours.name == "unit.task"  # the first guarded task installs guardrails
    assert is_guarded(add)
    assert not publishing.finalized


def test_what_is_registered_after_finalizing_is_guarded_too(publishing: Celery) -> None:
    class ByClass(Task):
        name = "vendor.by_class"

        def run(self) -> None: ...

    Guardrails(publishing)
    publishing.finalize()
    assert is_guarded(vendor_task(publishing))
    assert is_guarded(publishing.register_task(ByClass()))
    assert publishing.tasks is publishing._tasks
    assert type(publishing.tasks).__name__ == "TaskRegistry"


@pytest.mark.parametrize("name", ["outside.add", "celery.add"])
def test_other_tasks_stay_as_they_are(publishing: Celery, name: str) -> None:
    Guardrails(publishing)

    @publishing.task(shared=False, name=name)
    def add() -> None: ...

    assert add.name == name
    assert not is_guarded(add)


def test_patterns_of_the_code_and_settings_that_come_later_hold(new_app: NewApp) -> None:
    app = new_app()
    guard = Guardrails(app, guard=["outside.*"])
    app.conf.guardrails = GUARD

    @app.task(shared=False, name="outside.add")
    def other() -> None: ...

    assert is_guarded(other)
    assert is_guarded(vendor_task(app))
    app.conf.guardrails = {**GUARD, "environment": "later"}
    assert guard.settings.environment == "later", "registering a task keeps no settings"


@pytest.mark.parametrize("wrong", ["text", {"guard": 5}, {"guard": [5, "vendor.*"]}, {"guard": "vendor.*"}])
def test_settings_that_are_wrong_keep_no_task_from_being_made(new_app: NewApp, wrong: Any) -> None:
    app = new_app(wrong)
    Guardrails(app)
    assert vendor_task(app).name == "vendor.add"


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("annotated", [False, True])
def test_its_policy_is_the_same_as_when_it_comes_under_guard_at_last(
    new_app: NewApp, options: dict[str, Any], annotated: bool
) -> None:
    found = []
    for first in (True, False):
        app = new_app(
            GUARD, task_annotations={"vendor.add": {"max_retries": 2, "acks_late": True}} if annotated else {}
        )
        if first:
            Guardrails(app)
        add = vendor_task(app, **options)
        assert add.name == "vendor.add"
        guard = Guardrails(app)
        app.finalize()
        guard.declare_options()
        task = app.tasks["vendor.add"]
        effective = effective_policy(task, guard.settings)
        found.append((effective.policy.model_dump(), effective.provenance, task.acks_late, task.max_retries))
    assert found[0] == found[1]


def test_a_body_of_it_is_run_by_its_policy(new_app: NewApp, count: SimpleNamespace) -> None:
    app = new_app({**GUARD, "policy": {"max_attempts": 3, "backoff": Constant("1ms")}})
    guard = Guardrails(app)

    @app.task(shared=False, name="vendor.sync", autoretry_for=(ConnectionError,), retry_backoff=True)
    def sync() -> None:
        count.runs += 1
        raise ConnectionError("down")

    sync.apply()
    assert count.runs == 3, "and not by Celery's automatic retries"
    assert len(guard.captured) == 1


def _sent(app: Celery) -> Any:
    with app.connection_for_read() as connection:
        return connection.SimpleQueue("unit.tasks").get(timeout=5).headers
