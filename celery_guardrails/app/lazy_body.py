"""Task bodies that a call does not run: `async def`, generators, functions that return a coroutine.

To Celery such a task has succeeded. Owns recognizing it, by its function and by what the call returned. Pools and task
classes that await the body themselves go on working: their results do not come here.
"""

from __future__ import annotations

import inspect
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from celery.app import trace

from celery_guardrails.app.guardrails import is_plain
from celery_guardrails.errors import PermanentError

__all__ = ["LAZY", "has_foreign_tracer", "kind_of_body", "unrun_failure"]

LAZY = frozenset((CoroutineType, GeneratorType, AsyncGeneratorType))
"""Types of a call's result that has run nothing of the body, or not all of it."""

_RUN_IT = "write a plain `def` that runs it, for example with `asyncio.run(...)`"
_LOOP = "write a plain `def` that loops over it"
_KNOWN_TRACERS = ("celery.", "sentry_sdk.")


def kind_of_body(task: Any) -> tuple[str, str]:
    """What kind of body a call does not run, and what to write instead; `("", "")`: an ordinary body."""
    run = getattr(task, "_orig_run", None) or task.run
    if inspect.iscoroutinefunction(run):
        return "an `async def`", _RUN_IT
    if inspect.isasyncgenfunction(run):
        return "an async generator", _RUN_IT
    if inspect.isgeneratorfunction(run):
        return "a generator", _LOOP
    return "", ""


def has_foreign_tracer() -> bool:
    """Whether a library has replaced Celery's tracer in this process: it may await what Celery does not."""
    return not str(getattr(getattr(trace, "build_tracer", None), "__module__", "celery.")).startswith(_KNOWN_TRACERS)


def unrun_failure(task: Any, result: Any) -> PermanentError | None:
    """The failure that a result of one of the `LAZY` types means; `None`: it is not a failure."""
    if is_plain(task) or has_foreign_tracer():
        return None
    kind, instead = kind_of_body(task)
    if kind:
        problem = f"{task.name} is {kind}: the worker called it, but its body did not run ({instead})"
    elif isinstance(result, CoroutineType):
        what = getattr(result, "__qualname__", "?")
        problem = f"{task.name} returned the coroutine {what}, which nothing awaited: it did not run ({_RUN_IT})"
    else:
        return None  # a body that ran, and returned a generator
    if not isinstance(result, AsyncGeneratorType):
        result.close()  # else Python warns of the same
    return PermanentError(problem)
