"""How retries wait on this broker, and what Celery's own eta does beside it."""

from __future__ import annotations

from collections.abc import Iterator

from celery_guardrails.cli.pitfall.context import Context
from celery_guardrails.cli.pitfall.finding import Finding, fine, warning

__all__ = ["eta_limit", "way"]


def way(context: Context) -> Iterator[Finding]:
    """Whether retries wait outside the workers."""
    waiting = context.guardrails.waiting
    if context.transport == "memory":
        return  # said by the check of the broker
    if waiting.outside:
        yield fine(f"retries wait outside the workers: {waiting.name}")
    else:
        yield warning(
            f"retries wait by {waiting.name}: they are held back with it, and those that wait keep others from running",
            "use Redis or RabbitMQ, or keep delays short",
        )


def eta_limit(context: Context) -> Iterator[Finding]:
    """`worker_eta_task_limit`, behind which tasks that could run at once wait as well."""
    limit = context.conf.get("worker_eta_task_limit")
    if limit is None or (context.guardrails.waiting.outside and not context.plain):
        return
    yield warning(
        f"worker_eta_task_limit is {limit}: behind {limit} plain tasks with an eta, tasks to run at once wait too",
        "leave worker_eta_task_limit unset, or put tasks that are sent with a countdown or eta under guard",
    )
