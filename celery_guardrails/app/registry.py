"""Puts tasks under guard by name when they are registered: perhaps nobody ever finalizes their application.

A process that only publishes makes a task when it first uses it. Celery has no signal for that, so this module watches
the application's registry. Owns the watching, and which patterns hold then: the settings may not be complete yet, so
they are neither checked nor kept. A worker at start and `guardrails check` report what is wrong with them.
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
    """What is mixed into an application's registry of tasks."""

    on_register: Callable[[Any], None]

    def __setitem__(self, name: str, task: Any) -> None:
        super().__setitem__(name, task)  # type: ignore[misc]
        self.on_register(task)


def guard_registered(app: Celery, named: Sequence[str]) -> None:
    """Put every task whose name matches under guard: those registered by now, and each one registered later.

    Args:
        app: the application.
        named: name patterns from the code, beside those of the setting `guard`.
    """

    def adopt_if_named(task: Any) -> None:
        try:
            if matches := match_pattern(dict.fromkeys((*named, *_configured(app))), task.name):
                adopter().adopt(task, matches[0][0])
        except Exception:
            logger.warning("could not put %r under guard when it was registered", task, exc_info=True)

    if not holds(BY_NAME):
        return  # `Guardrails` puts them under guard when the application is finalized
    registry: Any = app._tasks
    cls = type(registry)
    if not issubclass(cls, _Watched):
        registry.__class__ = type(cls.__name__, (_Watched, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})
    registry.on_register = adopt_if_named
    for task in list(registry.values()):
        adopt_if_named(task)


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
