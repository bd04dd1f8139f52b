"""What Celery's own options say of a guarded task, as layers of its policy.

Owns which options count, whether anybody set them (the task, its class, `task_annotations`, the application's
`task_acks_late`), and what each means as a field of a policy. Celery's defaults (3 retries, 180 s, early
acknowledgement) count as not set. `in_force.py` owns the order of these layers and the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from celery import Celery, Task
from celery.app import annotations as celerys

from celery_guardrails.policy import Constant, Exponential, Layer, Policy, faults
from celery_guardrails.seams import DECLARED, holds

__all__ = [
    "ANNOTATED", "CONFIGURED", "OPTIONS", "OWN", "OWN_ACKS", "NeverRetried", "Said", "cover", "own_acks_late",
    "own_layers", "said_by", "uncover", "undo_autoretry", "unreadable",
]  # fmt: skip

OPTIONS = (
    "autoretry_for", "dont_autoretry_for", "max_retries", "retry_kwargs", "retry_backoff", "retry_backoff_max",
    "retry_jitter", "default_retry_delay", "acks_late",
)  # fmt: skip
"""Celery's options that become layers of a policy."""
OWN = "the task's own options"
ANNOTATED = "task_annotations"
CONFIGURED = "task_acks_late"

OWN_ACKS = "_guardrails_own_acks_late"
"""Where a class keeps the `acks_late` that it and its bases declared, before Celery filled in its default."""
_COVERED = "_guardrails_covered"
_IN_FORCE = "_guardrails_in_force"
_BACKOFF_MAX = 600  # Celery's, for `retry_backoff`
_COUNTERPART = {"max_retries": "max_retries", "countdown": "default_retry_delay"}
"""Keys of `retry_kwargs`, and the option that each replaces for automatic retries."""
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class Said:
    """The value of an option that somebody set, and who: the task's own options, or a setting of the application."""

    value: Any
    origin: str


def said_by(task: Task, option: str) -> Said | None:
    """The explicit value of one of Celery's options, from whoever wins in Celery; `None`: nobody has set it.

    Args:
        task: a task that Celery has bound.
        option: such as `max_retries`.
    """
    instance = vars(task).get(_COVERED, {}).get(option, vars(task).get(option, _NOTHING))
    if instance is not _NOTHING:  # set on the task itself, before annotations: these are on its class
        return Said(instance, OWN)
    annotated = _annotation(task, option)
    if annotated is not _NOTHING:
        return Said(annotated, ANNOTATED)
    own = _own(task, option)
    if own is not _NOTHING:
        return Said(own, OWN)
    if option == "acks_late" and _is_configured(task.app, CONFIGURED):
        return Said(task.app.conf[CONFIGURED], CONFIGURED)
    return None


def own_layers(task: Task) -> list[Layer]:
    """A layer for each of Celery's options that is set, named by the option; an unreadable option is left out."""
    return [layer for layer, _ in _read(task) if layer is not None]


def unreadable(task: Task) -> list[str]:
    """Options whose value means nothing, such as `max_retries = 'three'`, each with what is wrong with it."""
    return [problem for _, problem in _read(task) if problem]


def cover(task: Task, values: Mapping[str, Any]) -> None:
    """Set attributes of the task to the values in force. `said_by` still finds what the task itself declared."""
    covered, in_force = vars(task).setdefault(_COVERED, {}), vars(task).setdefault(_IN_FORCE, {})
    for name, value in values.items():
        covered.setdefault(name, vars(task).get(name, _NOTHING))
        with suppress(AttributeError):  # the class has a property, which computes the value itself
            setattr(task, name, value)
            in_force[name] = value


def uncover(task: Task) -> bool:
    """Keep what somebody has set on the task since `cover`, as tests do. Returns whether there was anything."""
    found = {name: vars(task).get(name) for name, value in vars(task).get(_IN_FORCE, {}).items()
             if vars(task).get(name) != value}  # fmt: skip
    if found:
        vars(task)[_COVERED].update(found)
    return bool(found)


def undo_autoretry(task: Task) -> None:
    """Remove Celery's `autoretry_for` from around the task's body: here the option is a layer of the policy."""
    original = vars(task).get("_orig_run")
    if original is not None:
        task.run = original


def own_acks_late(cls: type) -> bool | None:
    """The `acks_late` that a class or a base declares; `None`: none of them does.

    When Celery binds a class, it sets `__bound__` on the class, and then its default for `acks_late`. What the class's
    body or a decorator declares was set before `__bound__`: the order of the attributes shows it.
    """
    for base in cls.__mro__:
        attributes = vars(base)
        if OWN_ACKS in attributes:
            found: bool | None = attributes[OWN_ACKS]
            return found
        names = list(attributes)
        if attributes.get("acks_late") is None:
            continue
        if "__bound__" not in attributes or base is Task or names.index("acks_late") < names.index("__bound__"):
            return bool(attributes["acks_late"])
    return None


def _annotation(task: Task, option: str) -> Any:
    found = _NOTHING
    if not holds(DECLARED):
        return found
    for annotation in celerys.resolve_all(task.app.annotations, task):
        found = annotation.get(option, found)
    # Celery does not annotate a class that derives from a registered one
    return found if found is not _NOTHING and getattr(type(task), option, _NOTHING) == found else _NOTHING


def _own(task: Task, option: str) -> Any:
    """What the task's classes declare."""
    if option == "acks_late":
        acks = own_acks_late(type(task))
        return _NOTHING if acks is None else acks
    for cls in type(task).__mro__:
        if option in vars(cls) and cls is not Task:
            found = vars(cls)[option]
            return getattr(task, option, None) if isinstance(found, property) else found
    return _NOTHING


def _is_configured(app: Celery, key: str) -> bool:
    """Whether the application's configuration sets this key, under any of the names that Celery takes for it."""
    if not holds(DECLARED):
        return False
    conf = app.conf
    conf.get(key)  # loads the configuration
    # before Celery 5.7, `_to_keys` leaves out the old names
    names = {*conf._to_keys(key), *(convert(key) for convert in conf._keys or ())}
    defaults = conf.maps[-1]
    return any(name in settings for settings in conf.maps if settings is not defaults for name in names)


def _read(task: Task) -> Iterator[tuple[Layer | None, str]]:
    """Each option as a layer, or what is wrong with the option."""
    said = {option: found for option in OPTIONS if (found := said_by(task, option)) is not None}
    for option, fields in _fields(said):
        layer, problem = None, ""
        try:
            with faults.collecting() as wrong:
                policy = Policy(**fields())
            problem = "; ".join(fault.problem for fault in wrong)
        except (TypeError, ValueError, AttributeError, ArithmeticError) as exc:
            problem = str(exc)
        if not problem:
            origin = said[option].origin
            layer = Layer(origin if origin == CONFIGURED else f"{origin} ({option})", policy, explicit=False)
        yield layer, f"{option} = {faults.shown(said[option].value)}: {problem}" if problem else ""


def _fields(said: Mapping[str, Said]) -> Iterator[tuple[str, Any]]:
    """Each option that is set: its name, and a function that reads the policy's fields from it."""
    value = {option: found.value for option, found in said.items()}
    automatic: Mapping[str, Any] = value["retry_kwargs"] if isinstance(value.get("retry_kwargs"), Mapping) else {}
    if not value.get("autoretry_for"):
        # in Celery these are for automatic retries alone: an option that is for every retry replaces them
        automatic = {key: kept for key, kept in automatic.items() if _COUNTERPART.get(key) not in said}
        if value.get("default_retry_delay") is not None:
            value.pop("retry_backoff", None)
    if value.get("autoretry_for"):
        yield "autoretry_for", lambda: {"retry_on": _retried(value)}
    if value.get("dont_autoretry_for"):
        yield "dont_autoretry_for", lambda: {"give_up_on": _given_up(value)}
    if automatic.get("max_retries") is not None:
        yield "retry_kwargs", lambda: {"max_attempts": _attempts(automatic["max_retries"])}
    elif "max_retries" in said:
        yield "max_retries", lambda: {"max_attempts": _attempts(value["max_retries"])}
    if value.get("retry_backoff"):
        yield "retry_backoff", lambda: _exponential(value)
    elif automatic.get("countdown") is not None:
        yield "retry_kwargs", lambda: _constant(automatic["countdown"])
    elif value.get("default_retry_delay") is not None:
        yield "default_retry_delay", lambda: _constant(value["default_retry_delay"])
    if value.get("acks_late") is not None:
        yield "acks_late", lambda: {"acks": "late" if value["acks_late"] else "early"}


def _retried(value: Mapping[str, Any]) -> tuple[type[BaseException], ...]:
    """The errors to retry. In Celery a class in `dont_autoretry_for` always wins, however distant a base it is."""
    never = tuple(cls for cls in value.get("dont_autoretry_for") or () if isinstance(cls, type))
    return tuple(cls for cls in value["autoretry_for"] if not (isinstance(cls, type) and issubclass(cls, never)))


def _given_up(value: Mapping[str, Any]) -> tuple[Any, ...]:
    """The errors not to retry. An error with bases in both options is one of them, whichever base comes first."""
    never = tuple(value["dont_autoretry_for"])
    kept = _retried(value) if value.get("autoretry_for") else ()
    if all(issubclass(one, cls) for one in never for cls in kept):
        return never  # each is nearer to the error than every class to retry
    return (*never, NeverRetried(never))


@dataclass(frozen=True, slots=True)
class NeverRetried:
    """A predicate: whether an error is an instance of one of these classes."""

    errors: tuple[type[BaseException], ...]

    def __call__(self, error: BaseException) -> bool:
        return isinstance(error, self.errors)


def _attempts(retries: Any) -> int | None:
    """Executions in all. In Celery a negative number means no retry; `inf` and `None` mean no limit."""
    if retries is not None and not isinstance(retries, (int, float)):
        raise TypeError("is not a number")
    return None if retries is None or retries == math.inf else max(1, int(retries) + 1)


def _constant(seconds: Any) -> dict[str, Any]:
    return {"backoff": Constant(seconds), "jitter": "none"}


def _exponential(value: Mapping[str, Any]) -> dict[str, Any]:
    """As Celery computes `retry_backoff`: whole seconds, doubled each time; by default a random time from 0 to that."""
    first, cap = int(max(1.0, float(value["retry_backoff"]))), int(value.get("retry_backoff_max", _BACKOFF_MAX))
    jitter = "full" if value.get("retry_jitter", True) else "none"
    return {"backoff": Exponential(first, factor=2, cap=cap), "jitter": jitter}
