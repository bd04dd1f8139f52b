"""Who puts tasks under guard by name. The room `task` does it, and registers itself here when it is imported.

Owns that registration. `Guardrails` has tasks put under guard, and must not import the classes that do it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from celery import Celery

__all__ = ["Adopter", "adopter", "appoint"]


class Adopter(Protocol):
    """Puts tasks under guard that were registered with another base class."""

    def adopt(self, task: Any, pattern: str) -> None:
        """Put one task under guard, by a name pattern."""

    def sweep(self, app: Celery, patterns: Iterable[str]) -> None:
        """Put the registered tasks whose names match one of the patterns under guard."""


_appointed: list[Adopter] = []


def appoint(chosen: Adopter) -> None:
    """Have tasks put under guard by `chosen` from now on."""
    _appointed[:] = [chosen]


def adopter() -> Adopter:
    """Who does it.

    Raises:
        RuntimeError: nobody has said so yet.
    """
    if not _appointed:
        raise RuntimeError("import celery_guardrails.task before an application is put under guard")
    return _appointed[0]
