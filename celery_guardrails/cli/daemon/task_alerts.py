"""What the policies of an application's tasks say about alerts, as the guardian asks for it: by the task's name.

A guardian reads it from the application that it was started with, so that a changed policy counts for old letters too.
"""
# on its own: the assembly knows which parts there are, and not what a policy says

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.policy import Policy
from celery_guardrails.policy.alert import TaskAlerts
from celery_guardrails.policy.schedule import schedule

__all__ = ["retry_window", "task_alerts"]


def task_alerts(guardrails: Guardrails) -> Callable[[str], tuple[TaskAlerts | None, timedelta]]:
    """A function from a task's name to its policy's `alert`, and how long its retries may take.

    Args:
        guardrails: those of the application. A task that it does not know has neither.
    """
    policies = {task.name: guardrails.policy_of(task).policy for task in guardrails.guarded_tasks()}
    words = {name: (policy.alert, retry_window(policy)) for name, policy in policies.items()}
    return lambda task: words.get(task, (None, timedelta(0)))


def retry_window(policy: Policy) -> timedelta:
    """From the first attempt to the start of the last one, at most, if each fails at once."""
    planned = [attempt.latest for attempt in schedule(policy) if attempt.deadline != "exceeds"]
    window = max(planned, default=timedelta(0))
    if policy.max_attempts is None and policy.deadline is not None:
        return max(window, policy.deadline)
    return window if policy.deadline is None else min(window, policy.deadline)
