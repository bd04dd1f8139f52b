"""The rights of the application's own RabbitMQ user: what is missing, what comes of it, and the line that gives it."""

from __future__ import annotations

from collections.abc import Iterator

from celery_guardrails.cli.pitfall.context import Context
from celery_guardrails.cli.pitfall.finding import Finding, fault, fine, warning
from celery_guardrails.transport.depth import depth
from celery_guardrails.transport.lack import may_read

__all__ = ["rights"]


def rights(context: Context) -> Iterator[Finding]:
    """What this user may not do, asked without declaring or taking anything."""
    if context.transport != "amqp":
        return
    lacking, fix = context.lacks, context.rights_line
    for lack in lacking:
        if lack.subject == "crashes":
            yield warning(str(lack), fix)
        elif lack.subject != "waiting":  # said by the check of waiting
            yield fault(str(lack), fix)
    connection = context.broker.connection
    for queue in context.dead_letter_queues:
        right = may_read(connection, queue) if depth(connection, queue) is not None else None
        if right is not None:
            yield fault(f"{right}: a guardian that runs as this user archives nothing", fix)
            return
    if not lacking:
        yield fine(f"the user {connection.userid} has the rights that guardrails needs")
