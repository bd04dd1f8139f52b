"""`guardrails dlq`: the dead letters, one module for reading many, reading one, and changing them."""

from __future__ import annotations

import click

from celery_guardrails.cli.group import LazyGroup

__all__ = ["dlq"]


@click.group(
    cls=LazyGroup,
    commands_at={
        "list": "celery_guardrails.cli.dlq.reading:list_",
        "show": "celery_guardrails.cli.dlq.show:show",
        "groups": "celery_guardrails.cli.dlq.reading:groups",
        "stats": "celery_guardrails.cli.dlq.reading:stats",
        "requeue": "celery_guardrails.cli.dlq.change:requeue",
        "discard": "celery_guardrails.cli.dlq.change:discard",
        "restore": "celery_guardrails.cli.dlq.change:restore",
        "prune": "celery_guardrails.cli.dlq.prune:prune",
    },
)
def dlq() -> None:
    """See the dead letters, and decide what becomes of them.

    \b
    A QUERY is any number of terms that must all hold. ! before a term negates it:
      task:billing.*  error:Timeout*  reason:deadline_exceeded  state:dead  queue:mail
      since:2h  before:2026-11-01  arg.order_id:4711  text:"api key"  !owner:growth
      task_id:4f1c5d0e-...  (Celery's id, as its log shows it)
    """
