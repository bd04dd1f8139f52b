"""What unit tests share: applications that know Celery's own tasks and theirs, not those that another test shared."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, _state
from celery.app import builtins
from kombu.transport.memory import Channel

from celery_guardrails import Constant, GuardedTask, Guardrails, Policy
from tests.unit.traced import Gate


@pytest.fixture(autouse=True)
def only_celerys_shared_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared task is otherwise registered with each application that the process makes later."""
    own = {made for made in _state._on_app_finalizers if made.__module__ == builtins.__name__}
    monkeypatch.setattr(_state, "_on_app_finalizers", own)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have guardrails of their own."""
    for name in list(os.environ):
        if name.startswith("GUARDRAILS_"):
            monkeypatch.delenv(name)


@pytest.fixture
def new_app() -> Iterator[Callable[..., Celery]]:
    """Makes applications that need no server; `guardrails` is the setting, further keywords are Celery's."""
    made: list[Celery] = []

    def make(guardrails: dict[str, Any] | None = None, **conf: Any) -> Celery:
        app = Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False)
        if guardrails is not None:
            conf["guardrails"] = guardrails
        app.conf.update(task_always_eager=True, task_store_eager_result=False, **conf)
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()
    Channel.queues.clear()  # the broker in memory is one for the whole process


@pytest.fixture
def quick() -> Callable[..., Any]:
    """A decorator of guarded tasks that retry at once: `quick(app, max_attempts=3, bind=True)`."""

    def decorator(app: Celery, name: str = "unit.task", **options: Any) -> Any:
        fields = {key: options.pop(key) for key in list(options) if key in Policy.model_fields}
        policy = Policy(**{"backoff": Constant(0), "jitter": "none", **fields})
        task: Any = functools.partial(app.task, shared=False)
        return task(base=options.pop("base", GuardedTask), name=name, policy=policy, **options)

    return decorator


@pytest.fixture
def count() -> SimpleNamespace:
    """A counter for task bodies."""
    return SimpleNamespace(runs=0, seen=[])


@pytest.fixture
def app(new_app: Callable[..., Celery]) -> Celery:
    # where no spool can be: unit tests write no files, and what the broker does not take goes its last way
    made = new_app({"dead_letter": {"queue": "unit.dead", "spool_dir": "/dev/null/spool"}})
    made.conf.update(task_always_eager=False, task_default_queue="unit.tasks")
    return made


@pytest.fixture
def gate(app: Celery) -> Gate:
    return Gate(app)


@pytest.fixture
def failing(app: Celery, quick: Any) -> Any:
    @quick(app, max_attempts=2)
    def failing() -> None:
        raise ConnectionError("down")

    Guardrails.of(app).prepare()
    return failing
