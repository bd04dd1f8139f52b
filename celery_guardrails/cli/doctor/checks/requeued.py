"""Requeued work whose end no worker has reported: since when, and what may be the cause."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from celery_guardrails.cli.doctor.context import Context, StoreAway
from celery_guardrails.cli.doctor.finding import Finding, warning
from celery_guardrails.cli.output import ago
from celery_guardrails.command import query_term
from celery_guardrails.errors import StoreError
from celery_guardrails.recovery import search
from celery_guardrails.store.record import Unreported
from celery_guardrails.text import count_of

__all__ = ["unreported"]

_SOON = timedelta(hours=1)
_LONG = timedelta(days=1)
"""For a task without a deadline, which may retry as long as it likes."""


def unreported(context: Context) -> Iterator[Finding]:
    """Letters that stay requeued, neither recovered nor dead again, for longer than their task may retry."""
    try:
        found = search.unreported(context.archive, context.now - _SOON)
    except StoreError as exc:
        raise StoreAway(exc) from exc
    guarded = {task.name: context.guardrails.policy_of(task).policy for task in context.guarded}
    plain = {task.name for task in context.plain}
    for late in found:
        policy = guarded.get(late.task)
        allowed = _SOON if policy is None else policy.deadline or _LONG
        if late.requeued_at < context.now - allowed:
            yield _finding(context, late, plain=late.task in plain)


def _finding(context: Context, late: Unreported, *, plain: bool) -> Finding:
    words = (
        f"{late.task}: no worker has reported the end of {count_of(late.count, 'requeued letter')}, the first requeued "
        f"{ago(late.requeued_at, context.now)}"
    )
    query = f"{query_term('task', late.task)} state:requeued"
    back = context.project.typed("dlq restore", query, tail='--reason "..."')
    look = f"list them: {context.project.typed('dlq list', query)}; if they will not end, make them dead again: {back}"
    if plain:
        return warning(
            f"{words}; it is a plain task here, and workers report only tasks under guard",
            f"use GuardedTask for it, or name it in the setting guard; {look}",
        )
    return warning(f"{words}", f"see that a worker consumes its queue and runs it under guard; {look}")
