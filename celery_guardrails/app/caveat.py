"""What guardrails cannot do for a task as it is declared: a worker logs it at start, `check` and `doctor` show it.

Owns these findings as data. They are not faults: a pool or a framework may do what guardrails cannot see.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from celery import Task

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.lazy_body import kind_of_body
from celery_guardrails.seams import CARRIERS, holds

__all__ = ["Caveat", "caveats", "log_caveats"]

logger = logging.getLogger("celery_guardrails.worker")

_logged: WeakSet[Guardrails] = WeakSet()


@dataclass(frozen=True, slots=True)
class Caveat:
    """One task that guardrails cannot serve as declared; `fix` is what to write instead."""

    task: str
    found: str
    fix: str


def caveats(tasks: Iterable[Task]) -> Iterator[Caveat]:
    """The caveats of these guarded tasks.

    Args:
        tasks: the tasks under guard.
    """
    for task in tasks:
        if holds(CARRIERS) and (strategy := task.Strategy) != Task.Strategy:
            yield Caveat(
                task.name,
                f"has its own Strategy ({_name(strategy)}), as batch tasks do: guardrails cannot see how each message"
                " ends, so a failure there gets no retry and no dead letter",
                "handle failures inside the task, or leave it out of `guard`",
            )
        kind, instead = kind_of_body(task)
        if kind and not _has_own_call(type(task)):
            yield Caveat(task.name, f"is {kind}: a worker calls it, but its body does not run", instead)


def _has_own_call(cls: type) -> bool:
    """Whether a class of the application has its own `__call__`, which may run the body."""
    return any(
        "__call__" in vars(base) and not base.__module__.startswith(("celery.", "celery_guardrails."))
        for base in cls.__mro__
        if not getattr(vars(base).get("__call__"), "_guardrails", False)
    )


def _name(strategy: Any) -> str:
    return strategy if isinstance(strategy, str) else str(getattr(strategy, "__qualname__", strategy))


def log_caveats(guard: Guardrails) -> None:
    """Log the caveats of an application's tasks, once in this process. Never raises."""
    if guard in _logged:
        return
    _logged.add(guard)
    try:
        if guard.settings.enabled:
            for caveat in caveats(guard.guarded_tasks()):
                logger.warning("%s %s. Fix: %s", caveat.task, caveat.found, caveat.fix)
    except Exception:
        logger.warning("could not look for caveats in the tasks' declarations", exc_info=True)
