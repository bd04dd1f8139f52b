"""Which place an alert goes to: the first route that matches, as a pure function.

It must not know a sink, nor when a problem is routed: the poster does so when its first message is sent, and keeps it.
"""
# on its own: a pure decision, which the poster and the commands share

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from celery_guardrails.destination import Destination
from celery_guardrails.settings import RouteSettings

__all__ = ["destination_of"]


def destination_of(
    routes: Sequence[RouteSettings], *, task: str, owner: str | None, severity: str
) -> Destination | None:
    """Where the alerts of a problem go; `None`: no route matches, so they go where all others go.

    Args:
        routes: the setting `alerts.routes`, in its order.
        task: the task's name; case matters.
        owner: the owner that the task's policy names.
        severity: of its gravest letter.
    """
    for route in routes:
        by_task = route.task is None or fnmatch.fnmatchcase(task, route.task)
        if by_task and route.owner in (None, owner) and route.severity in (None, severity):
            return route.to
    return None
