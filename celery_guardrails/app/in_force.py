"""Which policy is in force for a task, and what is wrong with it.

Owns the order of precedence: `policies` of the settings, the decorator, the classes nearest first, Celery's own options
on the task (`own_option.py`), the settings' `policy`, the defaults. One thing is stronger than all: where the
application says that work is acknowledged early (`task_annotations`, `task_acks_late`), it must not run twice.
`policy/merge.py` merges the layers.
"""

from __future__ import annotations

from typing import Any

from celery import Task

from celery_guardrails.app.own_option import ANNOTATED, CONFIGURED, own_layers, said_by, unreadable
from celery_guardrails.app.request_class import request_faults
from celery_guardrails.errors import ConfigurationError, Fault
from celery_guardrails.policy import Effective, Layer, Policy, faults, match_pattern, merge, policy_fields
from celery_guardrails.settings import Settings

__all__ = ["UNDECLARED",
    "contradictions", "effective_policy", "is_guarded", "retries_automatically", "subject_of", "task_faults",
    "under_guard_by",
]  # fmt: skip

UNDECLARED = "Celery's own options, and no deadline is declared"
"""Where a missing deadline comes from, as `guardrails policy` shows it."""


def is_guarded(task: Task) -> bool:
    """Whether this task is under guard, by its base class or by name."""
    return bool(getattr(task, "_guardrails_guarded", False))


def subject_of(task: Any) -> Any:
    """The task whose policy and name count: itself, or the inner task of a `map`, `starmap` or `chunks`."""
    return getattr(task, "_guardrails_carries", None) or task


def under_guard_by(task: Task) -> str:
    """How the task came under guard: `base class` or `guard pattern billing.*`."""
    pattern = getattr(task, "_guardrails_adopted", None)
    return f"guard pattern {pattern}" if pattern else "base class"


def effective_policy(task: Task, settings: Settings) -> Effective:
    """The task's policy in force.

    Raises:
        ConfigurationError: the layers together are not a valid policy.
    """
    return merge(_layers(task, settings), task.name)


def retries_automatically(effective: Effective) -> bool:
    """Whether `retry_on` in force comes from Celery's `autoretry_for`."""
    return effective.provenance["retry_on"].endswith("(autoretry_for)")


def task_faults(task: Task, settings: Settings) -> list[Fault]:
    """What is wrong with how this task is declared."""
    found = [
        Fault("policy", faults.shown(value), "is not a Policy", task.name, "write policy=Policy(...)")
        for _, value in _declared(task)
        if not isinstance(value, Policy)
    ]
    if _declares_both(task):
        found.append(_autoretry_fault(task))
    if not found:
        try:
            effective_policy(task, settings)
        except ConfigurationError as exc:
            found.extend(Fault(f.setting, f.value, f.problem, task.name, f.suggestion) for f in exc.faults)
    return [*found, *request_faults(task)] if settings.enabled else found


def contradictions(task: Task, settings: Settings) -> list[str]:
    """Where Celery's options and the policies of this task contradict each other, and which of them holds.

    Empty for a task that came under guard by name: the application cannot change such a task's options.
    """
    if hasattr(type(task), "_guardrails_adopted"):
        return []
    effective = effective_policy(task, settings)
    found = [f"{task.name}: {problem}" for problem in unreadable(task)]
    explicit = _explicit(task, settings)
    in_force = policy_fields(effective.policy)
    for layer in own_layers(task):
        for field, value in policy_fields(layer.policy).items():
            holds = effective.provenance[field]
            if field not in layer.policy.model_fields_set or in_force[field] == value or holds.startswith("policies["):
                continue
            if field in effective.explicit:
                found.append(_contradiction(task, field, layer.name, value, holds, in_force[field]))
    for layer in explicit:
        if layer.policy.acks == "late" and "acks" in layer.policy.model_fields_set and in_force["acks"] == "early":
            holds = effective.provenance["acks"]
            if holds.startswith((ANNOTATED, CONFIGURED)):
                found.append(_contradiction(task, "acks", layer.name, "late", holds, "early"))
    return found


def _contradiction(task: Task, field: str, loser: str, lost: Any, holder: str, held: Any) -> str:
    return (
        f"{task.name}: {field} is {lost!r} by {loser}, but {held!r} by {holder}, which holds. "
        f"Fix: remove one of them, or write {field} in the setting policies"
    )


def _layers(task: Task, settings: Settings) -> list[Layer]:
    explicit, own = _explicit(task, settings), own_layers(task)
    general = [Layer("settings policy", settings.policy, explicit=False)]
    acks = said_by(task, "acks_late")
    if acks is not None and acks.value is not None and acks.origin in (ANNOTATED, CONFIGURED):
        (layer,) = [layer for layer in own if "acks" in layer.policy.model_fields_set]
        if not acks.value:
            own.remove(layer)
            explicit = [layer, *explicit]
        elif acks.origin == CONFIGURED:  # as general as the setting `policy`, which wins because it is guardrails' own
            own.remove(layer)
            general.append(layer)
    if any("backoff" in layer.policy.model_fields_set for layer in explicit):
        # Celery's jitter belongs to Celery's backoff: leave out both
        own = [layer for layer in own if "backoff" not in layer.policy.model_fields_set]
    layers = [*explicit, *own, *general]
    return [*layers, *_without_deadline(layers, own)]


def _without_deadline(layers: list[Layer], own: list[Layer]) -> list[Layer]:
    """Where Celery's own options set the attempts or the delays, these bound the work: no default deadline."""
    attempts = next(
        (layer.policy.max_attempts for layer in layers if _sets(layer, "max_attempts")), Policy().max_attempts
    )
    says_when = any(_sets(layer, "max_attempts") or _sets(layer, "backoff") for layer in own)
    if attempts is None or not says_when:
        return []
    return [Layer(UNDECLARED, Policy(deadline=None), explicit=False)]


def _sets(layer: Layer, field: str) -> bool:
    return field in layer.policy.model_fields_set


def _explicit(task: Task, settings: Settings) -> list[Layer]:
    """The policies for this task: by its name in the settings, then on the task and its classes; strongest first."""
    layers = [Layer(f"policies[{pattern}]", policy) for pattern, policy in match_pattern(settings.policies, task.name)]
    return layers + [Layer(name, value) for name, value in _declared(task) if isinstance(value, Policy)]


def _declares_both(task: Task) -> bool:
    """Whether one decorator, or one class, has both a policy and `autoretry_for`."""
    if hasattr(type(task), "_guardrails_adopted"):
        return False
    return any(vars(cls).get("policy") is not None and vars(cls).get("autoretry_for") for cls in type(task).__mro__)


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
    limit = given.get("max_retries")
    if limit is None:  # Celery then uses the task's
        said = said_by(task, "max_retries")
        limit = said.value if said is not None else Task.max_retries
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
    problem = "the policy and Celery's automatic retries both say which errors are retried"
    return Fault(
        "autoretry_for", f"({names})", problem, task.name, f"write policy=Policy({', '.join(written)}) instead"
    )


def _name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
