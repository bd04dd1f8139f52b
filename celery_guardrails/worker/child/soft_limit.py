"""A soft time limit is for the task's body: it must not interrupt what guardrails does after it.

The pool sends it as a signal, which raises wherever the process is at that moment; Celery may send it twice. Owns
holding it off.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import TypeVar

from billiard import pool
from billiard.exceptions import SoftTimeLimitExceeded

from celery_guardrails.seams import SOFT_LIMIT, holds

__all__ = ["call_undisturbed"]

_T = TypeVar("_T")


def call_undisturbed(act: Callable[[], _T]) -> _T:
    """Call `act` while soft time limits are ignored, and return what it returns.

    Args:
        act: what must not be cut short. It is called once.

    Raises:
        billiard.exceptions.SoftTimeLimitExceeded: the signal came just before it was held off, or just after; or `act`
            raised it.
    """
    if not _hold_off():
        return act()
    try:
        return act()
    finally:
        signal.signal(pool.SIG_SOFT_TIMEOUT, pool.soft_timeout_sighandler)


def _hold_off() -> bool:
    """Ignore the signal if it can come here; returns whether the caller has to restore its handler."""
    while True:
        try:
            if not _may_come():
                return False
            signal.signal(pool.SIG_SOFT_TIMEOUT, signal.SIG_IGN)
            return True
        except SoftTimeLimitExceeded:
            continue


def _may_come() -> bool:
    """Whether this is where a pool's signal would be raised: the main thread of a pool process."""
    return (
        holds(SOFT_LIMIT)
        and pool.SIG_SOFT_TIMEOUT is not None
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(pool.SIG_SOFT_TIMEOUT) is pool.soft_timeout_sighandler
    )
