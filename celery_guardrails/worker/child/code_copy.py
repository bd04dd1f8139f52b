"""Copies of code in the traceback of a failure, each made once in a process that runs tasks.

billiard copies the code of every frame of every failure, with the columns of each instruction. For Celery's tracer,
which is in every traceback, that takes longer than most else that a failure costs. Owns keeping the copies, which do
not change.
"""
# on its own: it copies code objects, of whose parts nothing else knows

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from billiard import einfo

from celery_guardrails.seams import COPIES, holds

__all__ = ["Copies", "keep_copies"]

_MOST = 200
"""Copies that are kept; a large function's is some 200 KB."""


class Copies:
    """Copies code as billiard does, and gives the same copy the next time.

    Args:
        copy: billiard's way.
    """

    def __init__(self, copy: Callable[[Any], Any]) -> None:
        self._copy = copy
        self._made: dict[int, tuple[Any, Any]] = {}

    def __call__(self, code: Any) -> Any:
        """The copy of this code object."""
        made = self._made.get(id(code))
        if made is None:
            if len(self._made) >= _MOST:
                self._made.clear()
            # with the code itself, so that no other one gets its id; equal code may be of another file
            made = self._made[id(code)] = (code, self._copy(code))
        return made[1]


def keep_copies() -> None:
    """Have billiard's tracebacks share the copies of code in this process; nothing where they are made another way."""
    if holds(COPIES) and not isinstance(einfo.Traceback.Frame.Code, Copies):
        einfo.Traceback.Frame.Code = Copies(einfo.Traceback.Frame.Code)
