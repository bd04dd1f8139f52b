"""Exceptions that leave a task's body and are not ordinary: who raised them, and what may leave the task instead.

Owns the line between what a body raises (`sys.exit()`, a MemoryError, any BaseException: failures like others) and
what Celery, its pools and the user's Ctrl-C raise into it, which must pass through.
"""

from __future__ import annotations

import pickle
import signal
import threading
from functools import lru_cache
from typing import Any

from billiard import common
from celery.exceptions import WorkerShutdown, WorkerTerminate

from celery_guardrails.errors import TaskAborted
from celery_guardrails.policy.describe import describe_type
from celery_guardrails.seams import EXITS, holds

__all__ = ["harmless", "is_killed", "is_of_body", "is_terminating"]


def is_terminating() -> bool:
    """Whether a signal asked this pool process to end: what its task raises now is no failure of the task."""
    # billiard's own name for it came with 4.3
    return holds(EXITS) and bool(common._should_have_exited[0])


def is_killed(exc: BaseException) -> bool:
    """Whether this exception ends a greenlet from outside: at a cold shutdown, a lost connection, or a revoke."""
    return any(cls.__name__ == "GreenletExit" and cls.__module__ == "greenlet" for cls in type(exc).__mro__)


def is_of_body(exc: BaseException, task: Any, request: Any) -> bool:
    """Whether the task itself raised this, and not Celery or a person who ends the task or its worker.

    Args:
        exc: what left the body, not an `Exception`.
        task: the task.
        request: its request.
    """
    if isinstance(exc, (WorkerShutdown, WorkerTerminate)) or is_terminating():
        return False
    if isinstance(exc, KeyboardInterrupt):
        # pool processes ignore SIGINT, workers handle it: only Python's own handler turns Ctrl-C into this
        handled = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        return handled or threading.current_thread() is not threading.main_thread()
    library = type(exc).__module__.partition(".")[0]
    if library in ("greenlet", "gevent", "eventlet"):
        return type(exc).__name__ == "Timeout" and not _is_time_limit(exc, task, request)
    return True


def harmless(exc: BaseException) -> BaseException:
    """What may leave the task: the exception if every pool survives it, else a `TaskAborted` that stands for it."""
    if isinstance(exc, Exception) and not isinstance(exc, MemoryError):
        return exc
    return _standing_for(exc).with_traceback(exc.__traceback__)


class _StandIn(TaskAborted):
    """Stands for an exception under its name and with its arguments; also where it crosses to the main process."""

    def __reduce__(self) -> tuple[Any, ...]:
        kind = type(self)
        return (_stand_in, (kind.__module__, kind.__qualname__, self.args, self.error, self.message))

    def __str__(self) -> str:
        return self.message


def _standing_for(exc: BaseException) -> TaskAborted:
    args = exc.args
    try:
        pickle.dumps(args)
    except Exception:  # noqa: BLE001 whatever they are, they must cross to the main process
        args = tuple(arg if isinstance(arg, (str, int, float)) else type(arg).__name__ for arg in args)
    return _stand_in(type(exc).__module__, type(exc).__qualname__, args, *describe_type(exc))


def _stand_in(module: str, name: str, args: tuple[Any, ...], error: str, message: str) -> TaskAborted:
    made = _class_of(module, name)(error, message)
    made.args = args
    return made


@lru_cache(maxsize=256)
def _class_of(module: str, name: str) -> type[_StandIn]:
    return type(name.rpartition(".")[2], (_StandIn,), {"__module__": module, "__qualname__": name})


def _is_time_limit(exc: Any, task: Any, request: Any) -> bool:
    """Whether gevent's pool raised this Timeout, for the task's hard time limit, and not the body's own code."""
    limits = getattr(request, "timelimit", None) or (None, None)
    return getattr(exc, "seconds", None) in {limits[0], task.time_limit} - {None}
