"""A task guarded one way or another, with options of Celery's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, Task

from celery_guardrails import GuardedTask
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.policy import Effective

__all__ = ["OWN", "WAYS", "NewApp", "declare", "effective_of"]

NewApp = Callable[..., Celery]

OWN = "the task's own options"
WAYS = ["base class", "task_cls", "by name"]


def declare(new_app: NewApp, way: str, settings: dict[str, Any] | None = None, conf: Any = None, **options: Any) -> Any:
    """A task `shop.pay` of an application, guarded one way or another, with these options of Celery's."""
    app: Celery = new_app({**(settings or {}), **({"guard": ["shop.*"]} if way == "by name" else {})}, **(conf or {}))
    if way == "task_cls":
        app.task_cls = GuardedTask
    Guardrails(app)
    base = {"base": GuardedTask} if way == "base class" else {}

    @app.task(shared=False, name="shop.pay", **base, **options)
    def pay() -> None: ...

    app.finalize()
    return app.tasks["shop.pay"]


def effective_of(task: Task) -> Effective:
    guard = Guardrails.of(task.app)
    assert guard.faults() == []
    return guard.policy_of(task)
