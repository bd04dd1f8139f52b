"""Which object puts tasks under guard by name. The package `task` appoints its own when it is imported.

Owns only this appointment: `Guardrails` needs tasks put under guard, and must not import `task`.
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
    """Let `chosen` put tasks under guard from now on."""
    _appointed[:] = [chosen]


def adopter() -> Adopter:
    """The appointed adopter.

    Raises:
        RuntimeError: none is appointed yet.
    """
    if not _appointed:
        raise RuntimeError("nothing can put tasks under guard yet: import celery_guardrails.task first")
    return _appointed[0]
