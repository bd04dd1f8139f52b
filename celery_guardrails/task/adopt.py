"""Puts tasks under guard by name, without touching their code.

Owns the new class of such a task. The setting `guard` and `Guardrails(app, guard=)` say which names match; they call
this module through `app/adopter.py`.
"""
# on its own: the one place that changes the class of somebody else's task

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import cast

from celery import Celery, Task

from celery_guardrails.app.adopter import Adopter, appoint
from celery_guardrails.app.guardrails import BUILT_IN
from celery_guardrails.app.request_class import install_request
from celery_guardrails.policy import Policy, match_pattern
from celery_guardrails.task.carrier import install_carriers
from celery_guardrails.task.guarded import GuardMixin, install_call

__all__ = ["adopt", "sweep"]


def adopt(task: Task, pattern: str) -> None:
    """Put a task under guard that was registered with another base class; who calls it notices nothing.

    Its Celery options (`autoretry_for`, `max_retries`, ...) become layers of its policy.
    """
    cls = type(task)
    if issubclass(cls, GuardMixin) or BUILT_IN.match(task.name):
        return
    attributes = {"__module__": cls.__module__, "__doc__": cls.__doc__, "_guardrails_adopted": pattern}
    if not isinstance(getattr(cls, "policy", None), (Policy, type(None))):
        attributes["policy"] = cls.policy  # the library means something else by that name
    guarded = type(cls.__name__, (GuardMixin, cls), attributes)
    install_call(guarded)
    install_request(guarded)
    task.__class__ = guarded


def sweep(app: Celery, patterns: Iterable[str]) -> None:
    """Put the tasks whose names match a pattern under guard: those registered by now.

    Args:
        app: the application.
        patterns: name patterns such as `billing.*`.
    """
    install_carriers(app)
    wanted = dict.fromkeys(patterns)
    if wanted:
        for name, task in list(app._tasks.items()):
            matches = match_pattern(wanted, name)
            if matches:
                adopt(task, matches[0][0])


appoint(cast(Adopter, sys.modules[__name__]))
