"""Bodies that a call does not run: `async def`, generators, and what returns a coroutine. Celery takes them for done.

Owns telling such a task by its function, and by what its call gave. Pools and task classes that await the body by
themselves go on working: what they make of it does not come here.
"""

from __future__ import annotations

import inspect
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from celery.app import trace

from celery_guardrails.app.guardrails import is_plain
from celery_guardrails.errors import PermanentError

__all__ = ["LAZY", "kind_of_body", "never_ran", "others_run_it"]

LAZY = frozenset((CoroutineType, GeneratorType, AsyncGeneratorType))
"""What a call gives that has run nothing, or not all."""

_RUN_IT = "write a plain `def` that runs it, such as `asyncio.run(...)`"
_LOOP = "write a plain `def` that loops over it"
_KNOWN_TRACERS = ("celery.", "sentry_sdk.")


def kind_of_body(task: Any) -> tuple[str, str]:
    """What a task's body is, if a call does not run it, and what to write instead; `("", "")`: an ordinary one."""
    run = getattr(task, "_orig_run", None) or task.run
    if inspect.iscoroutinefunction(run):
        return "an `async def`", _RUN_IT
    if inspect.isasyncgenfunction(run):
        return "an async generator", _RUN_IT
    if inspect.isgeneratorfunction(run):
        return "a generator", _LOOP
    return "", ""


def others_run_it() -> bool:
    """Whether somebody else's tracer is in Celery's place in this process: it may await what Celery does not."""
    return not str(getattr(getattr(trace, "build_tracer", None), "__module__", "celery.")).startswith(_KNOWN_TRACERS)


def never_ran(task: Any, result: Any) -> PermanentError | None:
    """The failure that a result of one of the `LAZY` types is; `None`: it is none."""
    if is_plain(task) or others_run_it():
        return None
    kind, instead = kind_of_body(task)
    if kind:
        problem = f"{task.name} is {kind}, which a worker calls and nothing runs: its body did not run ({instead})"
    elif isinstance(result, CoroutineType):
        what = getattr(result, "__qualname__", "?")
        problem = f"{task.name} returned a coroutine that nothing awaited, {what}: that did not run ({_RUN_IT})"
    else:
        return None  # a body that ran, and returned a generator
    if not isinstance(result, AsyncGeneratorType):
        result.close()  # else Python warns of it, too
    return PermanentError(problem)
