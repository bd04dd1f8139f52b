"""Whether a guardian is alive: without a guardian, dead letters wait in their queue and nobody is alerted."""
# on its own: each group of the doctor's checks is a file, however short

from __future__ import annotations

from collections.abc import Iterator

from celery_guardrails.cli.doctor.context import BrokerAway, Context, StoreAway
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, warning
from celery_guardrails.cli.output import ago
from celery_guardrails.command import celery_command
from celery_guardrails.text import count_of
from celery_guardrails.transport.consumer import ConsumerLost, waiting

__all__ = ["heartbeat"]


def heartbeat(context: Context) -> Iterator[Finding]:
    """The guardians that are alive. Without any: a fault where dead letters wait, else a warning."""
    try:
        alive, last = context.guardians_alive, context.guardians[:1]
    except StoreAway:
        alive, last = [], []
    if alive:
        where = ", ".join(f"{guardian.host} (process {guardian.pid})" for guardian in alive)
        seen = ago(alive[0].seen_at, context.now)
        yield fine(f"{count_of(len(alive), 'guardian')} alive, seen {seen}: {where}")
        return
    words = (
        f"no guardian is alive, one was last seen {ago(last[0].seen_at, context.now)}"
        if last
        else "no guardian is alive"
    )
    fix = f"run one beside the workers: {celery_command(context.project.name, 'guardian')}"
    if _letters_wait(context):
        yield fault(f"{words}, and dead letters wait for it", fix)
    else:
        yield warning(f"{words}: dead letters will wait in their queue, and nobody is alerted", fix)


def _letters_wait(context: Context) -> bool:
    try:
        context.broker  # noqa: B018 asked first, because it knows already when the broker is away
        return waiting(context.app, context.dead_letter_queues) > 0
    except (BrokerAway, ConsumerLost):
        return False
