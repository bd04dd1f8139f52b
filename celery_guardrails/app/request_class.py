"""Mixes our request class over the request class that a task declares (Celery's guide: "Custom requests").

Owns how the two become one class, made once for each, and what is wrong where they cannot. The task's class is looked
up when a worker asks for it, because a task may name it by a dotted path or a property. Must not know what ours does.
"""

from __future__ import annotations

import inspect
from functools import cache
from types import new_class
from typing import Any

from celery import Task
from celery.utils.imports import symbol_by_name

from celery_guardrails.errors import Fault

__all__ = ["OURS", "RequestClass", "install_request", "request_faults"]

OURS = "celery_guardrails.worker.main.request:GuardedRequest"
"""Our request class, as text: a producer must not have to import a worker's code."""

_CELERYS = "celery.worker.request.Request"


class RequestClass:
    """A descriptor in place of a task class's own `Request`: gives our request class mixed over that one.

    Args:
        own: what the class declares: a request class, a dotted path or a property.
    """

    def __init__(self, own: Any) -> None:
        self._own = own

    @property
    def is_ours(self) -> bool:
        """Whether the class declares no request class; one of its tasks may still have one."""
        return bool(self._own == OURS)

    def __get__(self, task: Any, owner: type | None = None) -> Any:
        theirs = self.theirs(task, owner)
        try:
            return _mixed(_resolved(theirs))
        except (ImportError, AttributeError, TypeError, ValueError):
            return theirs  # `request_faults` reports it at start; with `enabled: False` all is as without guardrails

    def __set__(self, task: Any, value: Any) -> None:
        vars(task)["Request"] = value

    def theirs(self, task: Any, owner: type | None = None) -> Any:
        """The request class as the task declares it: a class, a dotted path, or what a property gives."""
        if task is not None and "Request" in vars(task):
            return vars(task)["Request"]
        return self._own.__get__(task, owner) if hasattr(type(self._own), "__get__") else self._own


def install_request(cls: type) -> None:
    """Let a worker get our request class mixed over the one that a guarded task class, or its base, declares."""
    own = next((vars(base)["Request"] for base in cls.__mro__ if _is_own(vars(base).get("Request"))), OURS)
    installed = inspect.getattr_static(cls, "Request")
    if not isinstance(installed, RequestClass) or (own != OURS and installed is not own):
        cls.Request = own if isinstance(own, RequestClass) else RequestClass(own)  # type: ignore[attr-defined]


def request_faults(task: Task) -> list[Fault]:
    """Why guardrails cannot use the request class that the task declares."""
    own = inspect.getattr_static(type(task), "Request", None)
    theirs = own.theirs(task, type(task)) if isinstance(own, RequestClass) else OURS
    if theirs == OURS:
        return []
    try:
        _mixed(_resolved(theirs))
    except (ImportError, AttributeError, ValueError) as exc:
        problem, suggestion = f"cannot be imported: {exc}", "write its import path, such as 'shop.requests:OurRequest'"
    except _Unfit as exc:
        problem, suggestion = f"{exc}: guardrails could not see how the task ends", f"derive it from {_CELERYS}"
    except TypeError as exc:
        problem = f"cannot be mixed with guardrails' request class: {exc}"
        suggestion = f"write a class on {_CELERYS} whose metaclass, __init_subclass__ and __slots__ allow further bases"
    else:
        return []
    shown = theirs if isinstance(theirs, str) else getattr(theirs, "__qualname__", repr(theirs))
    return [Fault("Request", shown, problem, task.name, suggestion)]


class _Unfit(TypeError):
    """What a task declares as its request class is not one."""


def _is_own(value: Any) -> bool:
    return value not in (None, OURS, Task.Request) and not (isinstance(value, RequestClass) and value.is_ours)


def _resolved(theirs: Any) -> Any:
    return symbol_by_name(theirs)


@cache
def _mixed(theirs: Any) -> Any:
    """Our request class, mixed over theirs.

    Raises:
        TypeError: they cannot become one class.
    """
    from celery.worker.request import Request

    ours: Any = symbol_by_name(OURS)
    if not isinstance(theirs, type):
        raise _Unfit("is not a class")
    if theirs is Request or issubclass(theirs, ours):
        return ours if theirs is Request else theirs
    if not issubclass(theirs, Request):
        raise _Unfit(f"is not derived from {_CELERYS}")
    attributes = {"__module__": theirs.__module__, "__doc__": theirs.__doc__, "is_mixed": True}
    return new_class(theirs.__name__, (ours, theirs, *ours.below), exec_body=lambda space: space.update(attributes))
