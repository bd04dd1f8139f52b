"""Messages on Redis that a worker took and no worker holds now: nothing else shows them until they are redelivered.

Owns which workers are asked whether they hold them. Other brokers notice at once that a worker's connection is dead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta

from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, warning
from celery_guardrails.cli.output import span
from celery_guardrails.clock import shown
from celery_guardrails.text import count_of
from celery_guardrails.transport.redis.orphan import SilentMessage, silent

__all__ = ["taken"]

_NAMED = 3


def taken(context: Context) -> Iterator[Finding]:
    """Messages that were taken and not acknowledged, and that no answering worker holds."""
    if context.transport != "redis":
        return
    from redis import Redis  # an extra

    channel = context.broker.connection.default_channel
    found = silent(channel, Redis(connection_pool=channel.pool))
    if not found.messages:
        return
    lost = [message for message in found.messages if message.task_id not in context.at_work]
    if not lost:
        return
    least = "at least " if found.count > len(found.messages) else ""
    longest = lost[0].silent
    words = (
        f"{least}{count_of(len(lost), 'message')} ({_tasks(lost)}) taken, but no worker that answers holds them, the "
        f"first for {span(longest)}: "
    )
    left = found.timeout - longest
    if left <= timedelta(0):
        yield warning(f"{words}redelivery is due, but no worker is there to do it", "start a worker")
        return
    yield warning(
        f"{words}each is redelivered {shown(found.timeout)} after a worker last reported to hold it, the first in "
        f"{span(left)}",
        'wait; where every worker has guardrails, broker_transport_options = {"visibility_timeout": 30} makes it 30 s',
    )


def _tasks(lost: Sequence[SilentMessage]) -> str:
    counts = Counter(message.task or "of no task" for message in lost)
    named = [f"{count:,} of {task}" if len(counts) > 1 else task for task, count in counts.most_common(_NAMED)]
    return ", ".join(named) + (", ..." if len(counts) > _NAMED else "")
