"""Calls foreign code that may hang, such as a sink of the user's own, and waits for it only so long.

Owns the thread in which it runs. A call that hangs keeps its thread, and the next calls are refused until it ends: one
stuck sink costs one thread. It must not know what is called.
"""
# on its own: two sinks share it, and it must not know either

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from celery_guardrails.errors import Trouble, Undelivered

__all__ = ["Bounded"]


class Bounded:
    """Runs calls one at a time, each in a thread, for at most `seconds`.

    Args:
        seconds: how long to wait for a call.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stuck: threading.Thread | None = None

    def __call__(self, call: Callable[[], Any]) -> Any:
        """What `call` returns, or what it raises.

        Raises:
            Undelivered: it does not return in time, or an earlier call has not returned yet.
        """
        if self._stuck is not None and self._stuck.is_alive():
            raise Undelivered(Trouble.UNAVAILABLE, "an earlier call has not returned yet")
        outcome: list[Callable[[], Any]] = []

        def run() -> None:
            try:
                value = call()
            except BaseException as exc:  # noqa: BLE001 raised again below, in the thread that waits
                failure = exc
                outcome.append(lambda: _raise(failure))
            else:
                outcome.append(lambda: value)

        self._stuck = threading.Thread(target=run, name="guardrails-sink", daemon=True)
        self._stuck.start()
        self._stuck.join(self._seconds)
        if not outcome:
            raise Undelivered(Trouble.UNCERTAIN, f"no answer within {self._seconds:g} s")
        return outcome[0]()


def _raise(error: BaseException) -> Any:
    raise error
