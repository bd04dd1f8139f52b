"""Copies of the code objects in tracebacks, each made once in a process that runs tasks.

billiard copies the code of every frame of every failure, with the columns of each instruction. Celery's tracer is in
every traceback, and copying its code takes longer than most other steps of a failure. Owns keeping the copies, which do
not change.
"""
# on its own: it copies code objects, and no other module knows their parts

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
            # the code itself is kept too, so that no other code gets its id; equal code may be of another file
            made = self._made[id(code)] = (code, self._copy(code))
        return made[1]


def keep_copies() -> None:
    """Have billiard's tracebacks share the copies of code in this process, if billiard makes them as we know."""
    if holds(COPIES) and not isinstance(einfo.Traceback.Frame.Code, Copies):
        einfo.Traceback.Frame.Code = Copies(einfo.Traceback.Frame.Code)
