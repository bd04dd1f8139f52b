"""The rights of the application's own RabbitMQ user: what is missing, what follows, and the line that gives it."""

from __future__ import annotations

from collections.abc import Iterator

from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, warning
from celery_guardrails.transport.declared import declared_by_celery, undeclared_line
from celery_guardrails.transport.depth import depth
from celery_guardrails.transport.lack import declares_in_vain, may_read

__all__ = ["rights"]


def rights(context: Context) -> Iterator[Finding]:
    """What this user may not do. The check declares nothing and takes no message."""
    if context.transport != "amqp":
        return
    lacking, connection = context.lacks, context.broker.connection
    for lack in lacking:
        if lack.subject in ("crashes", "figures"):
            yield warning(str(lack), context.rights_fix(declare=lack.subject == "figures"))
        elif lack.subject != "waiting":  # the check of waiting reports it
            yield fault(str(lack), context.rights_fix(declare=lack.subject == "letters"))
    ended = list(_declared_in_vain(context))
    yield from ended
    for queue in context.dead_letter_queues:
        right = may_read(connection, queue) if depth(connection, queue) is not None else None
        if right is not None:
            words = f"{right}: a guardian that runs as this user archives nothing"
            yield fault(words, context.rights_fix(declare=False))
            return
    if not lacking and not ended:
        yield fine(f"the user {connection.userid} has the rights that guardrails needs")


def _declared_in_vain(context: Context) -> Iterator[Finding]:
    """What Celery declares but this user may not: workers and producers end by that, even where it exists."""
    connection = context.broker.connection
    found = {each: declares_in_vain(connection, each) for each in declared_by_celery(context.app)}
    refused = {queue: what for queue, what in found.items() if what is not None}
    if not refused:
        return
    lines = [undeclared_line(queue) for queue in refused]
    more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
    yield fault(
        f"the user {connection.userid!r} may not configure {next(iter(refused.values()))}{more}, which Celery declares "
        "at start: workers and producers end",
        f"write task_queues=[{lines[0]}{', ...' if more else ''}], as `{context.project.typed('topology')}` prints it",
    )
