"""Which policy is in force for a task, and what is wrong with it.

Owns the order of precedence: `policies` of the settings, the decorator, the classes nearest first, the settings'
`policy`, the defaults. Merging itself is in `policy/merge.py`.
"""

from __future__ import annotations

from typing import Any

from celery import Task

from celery_guardrails.errors import ConfigurationError, Fault
from celery_guardrails.policy import Effective, Layer, Policy, faults, match_pattern, merge
from celery_guardrails.settings import Settings
from celery_guardrails.worker.request_class import request_faults

__all__ = ["effective_policy", "is_guarded", "subject_of", "task_faults", "under_guard_by"]


def is_guarded(task: Task) -> bool:
    """Whether this task is under guard, by its base class or by name."""
    return bool(getattr(task, "_guardrails_guarded", False))


def subject_of(task: Any) -> Any:
    """The task whose policy is in force and whose name letters bear: itself, or what a `map` or `starmap` runs."""
    return getattr(task, "_guardrails_carries", None) or task


def under_guard_by(task: Task) -> str:
    """Which way the task came under guard: `base class` or `guard pattern billing.*`."""
    pattern = getattr(task, "_guardrails_adopted", None)
    return f"guard pattern {pattern}" if pattern else "base class"


def effective_policy(task: Task, settings: Settings) -> Effective:
    """The task's policy in force.

    Raises:
        ConfigurationError: the layers together are not a valid policy.
    """
    return merge(_layers(task, settings), task.name)


def task_faults(task: Task, settings: Settings) -> list[Fault]:
    """What is wrong with how this task is declared."""
    found = [
        Fault("policy", faults.shown(value), "is not a Policy", task.name, "write policy=Policy(...)")
        for _, value in _declared(task)
        if not isinstance(value, Policy)
    ]
    if getattr(task, "autoretry_for", None) and not hasattr(type(task), "_guardrails_adopted"):
        found.append(_autoretry_fault(task))
    if not found:
        try:
            effective_policy(task, settings)
        except ConfigurationError as exc:
            found.extend(Fault(f.setting, f.value, f.problem, task.name, f.suggestion) for f in exc.faults)
    return [*found, *request_faults(task)] if settings.enabled else found


def _layers(task: Task, settings: Settings) -> list[Layer]:
    layers = [Layer(f"policies[{pattern}]", policy) for pattern, policy in match_pattern(settings.policies, task.name)]
    layers += [Layer(name, value) for name, value in _declared(task) if isinstance(value, Policy)]
    expected = tuple(getattr(task, "autoretry_for", None) or ())
    if expected and hasattr(type(task), "_guardrails_adopted"):
        layers.append(Layer("autoretry_for", Policy(retry_on=expected)))
    layers.append(Layer("settings policy", settings.policy))
    return layers


def _declared(task: Task) -> list[tuple[str, Any]]:
    """The policies on the task's classes, nearest first; a decorator's is on the class that Celery made for it."""
    adopted = hasattr(type(task), "_guardrails_adopted")
    found = []
    for cls in type(task).__mro__:
        value = vars(cls).get("policy")
        if value is None or (adopted and not isinstance(value, Policy)):
            continue
        found.append(("decorator" if "_decorated" in vars(cls) else f"class {cls.__qualname__}", value))
    return found


def _autoretry_fault(task: Task) -> Fault:
    names = ", ".join(_name(cls) for cls in task.autoretry_for)
    written = [f"retry_on=({names},)"]
    given = getattr(task, "retry_kwargs", None) or {}
    limit = given.get("max_retries", task.max_retries)
    written.append(f"max_attempts={None if limit is None else limit + 1}")
    backoff = getattr(task, "retry_backoff", False)
    if backoff:
        cap = getattr(task, "retry_backoff_max", 600)
        written.append(f"backoff=Exponential({int(max(1.0, backoff))}, factor=2, cap={cap})")
        if not getattr(task, "retry_jitter", True):
            written.append('jitter="none"')
    elif given.get("countdown") is not None:
        written.append(f"backoff=Constant({given['countdown']})")
    if getattr(task, "dont_autoretry_for", None):
        written.append(f"give_up_on=({', '.join(_name(cls) for cls in task.dont_autoretry_for)},)")
    problem = "Celery's automatic retries and a guarded task's policy would both retry"
    return Fault(
        "autoretry_for", f"({names})", problem, task.name, f"write policy=Policy({', '.join(written)}) instead"
    )


def _name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
