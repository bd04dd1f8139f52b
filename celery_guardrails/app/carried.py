"""Reads a message of Celery's `map`, `starmap` or `chunks`: which task it runs, and for which items.

Owns reading the message's arguments, also malformed ones, and looking up the carrier that runs the message under guard.
It must not know how a carrier is made (`task/carrier.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery, Task

from celery_guardrails import seams
from celery_guardrails.app.registry import registered

__all__ = ["CARRIERS", "arguments_of", "carried_items", "carried_name", "carrier_in", "carrier_of", "carriers"]

CARRIERS = ("celery.chunks", "celery.map", "celery.starmap")
"""Celery's tasks that run an inner task for many items."""
_SINGLE = "celery.map"
"""Each item of a `map` is one argument; an item of the others is a list of arguments."""


def carried_name(name: Any, args: Any, kwargs: Any) -> str:
    """The name of the inner task; `""` where the message is not one of these, or names no task."""
    if name not in CARRIERS:
        return ""
    inner = _argument(args, kwargs, 0, "task")
    found = inner.get("task") if isinstance(inner, Mapping) else inner
    return found if isinstance(found, str) else ""


def carried_items(name: str, args: Any, kwargs: Any) -> list[Sequence[Any]]:
    """The inner task's positional arguments, for each item of the message."""
    items = _argument(args, kwargs, 1, "it")
    if not isinstance(items, (list, tuple)):
        return []
    if name == _SINGLE:
        return [(item,) for item in items]
    return [item if isinstance(item, (list, tuple)) else (item,) for item in items]


def arguments_of(payload: Any) -> tuple[Any, Any]:
    """`args` and `kwargs` of a decoded message body, in either protocol; `(), {}` where the body is not a task's."""
    if isinstance(payload, Mapping):
        return payload.get("args"), payload.get("kwargs")
    if isinstance(payload, (list, tuple)) and len(payload) > 1:
        return payload[0], payload[1]
    return (), {}


def _argument(args: Any, kwargs: Any, position: int, name: str) -> Any:
    if isinstance(kwargs, Mapping) and name in kwargs:
        return kwargs[name]
    return args[position] if isinstance(args, (list, tuple)) and len(args) > position else None


def carriers(app: Celery) -> list[Task]:
    """The application's `map`, `starmap` and `chunks`, as registered."""
    if not seams.holds(seams.CARRIERS):
        return []
    return [task for task in map(registered(app).get, CARRIERS) if task is not None]


def carrier_of(task: Any, args: Any, kwargs: Any) -> Any:
    """The carrier that runs a message (`task/carrier.py`); `None`: the task itself runs it. Never raises.

    Args:
        task: a registered task.
        args: of the message.
        kwargs: of the message.
    """
    find = getattr(task, "guardrails_carrier", None)
    return None if find is None else find(args, kwargs)


def carrier_in(task: Any, payload: Any) -> Any:
    """The carrier that runs a message, found by the message's decoded body."""
    return carrier_of(task, *arguments_of(payload))
