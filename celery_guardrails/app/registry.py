"""Tasks that come under guard by name when they are registered, though nobody may ever finalize their application.

A process that only publishes makes a task when it is first used, and sends it. Celery has no signal for that, so the
application's registry is watched. Owns that, and which patterns hold then: the settings may not be complete yet, so
they are neither checked nor kept. What is wrong with them is said when a worker starts, and by `guardrails check`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import Celery

from celery_guardrails.app.adopter import adopter
from celery_guardrails.policy import match_pattern
from celery_guardrails.seams import BY_NAME, holds

__all__ = ["guard_registered", "registered"]

logger = logging.getLogger("celery_guardrails.worker")


class _Watched:
    """What an application's registry of tasks gets."""

    hear: Callable[[Any], None]

    def __setitem__(self, name: str, task: Any) -> None:
        super().__setitem__(name, task)  # type: ignore[misc]
        self.hear(task)


def guard_registered(app: Celery, named: Sequence[str]) -> None:
    """Put the tasks that are registered by now, and those that will be, under guard where their names match.

    Args:
        app: the application.
        named: name patterns from the code, beside those of the setting `guard`.
    """

    def hear(task: Any) -> None:
        try:
            if matches := match_pattern(dict.fromkeys((*named, *_configured(app))), task.name):
                adopter().adopt(task, matches[0][0])
        except Exception:
            logger.warning("%r is not put under guard when it is registered", task, exc_info=True)

    if not holds(BY_NAME):
        return  # then they are when the application is finalized
    registry: Any = app._tasks
    cls = type(registry)
    if not issubclass(cls, _Watched):
        registry.__class__ = type(cls.__name__, (_Watched, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})
    registry.hear = hear
    for task in list(registry.values()):
        hear(task)


def registered(app: Celery) -> Mapping[str, Any]:
    """The tasks that are registered by now, by name. It finalizes no application."""
    if holds(BY_NAME):
        known: Mapping[str, Any] = app._tasks
        return known
    return dict(app.tasks) if app.finalized else {}


def _configured(app: Celery) -> list[str]:
    said = app.conf.get("guardrails")
    patterns = said.get("guard") if isinstance(said, Mapping) else None
    found = [patterns] if isinstance(patterns, str) else patterns or ()
    return [pattern for pattern in found if isinstance(pattern, str)]
