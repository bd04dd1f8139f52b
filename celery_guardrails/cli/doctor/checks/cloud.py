"""Hosted brokers: how long they keep a message, and how long a worker may hold a message."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from celery_guardrails.cli.doctor.checks.time_limit import hard_limit, named
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, fine, warning
from celery_guardrails.clock import shown

__all__ = ["hold", "retention"]

_WEEK = timedelta(days=7)
_PUBSUB = timedelta(days=1)
_SQS = timedelta(days=4)
_HOLD = timedelta(minutes=30)


def retention(context: Context) -> Iterator[Finding]:
    """How long messages, dead letters among them, wait before the broker deletes them."""
    if context.transport == "gcpubsub":
        kept = timedelta(seconds=float(context.options.get("expiration_seconds") or _PUBSUB.total_seconds()))
        fix = 'set broker_transport_options["expiration_seconds"] = 604800, and keep a guardian running'
        yield from _kept("Pub/Sub", kept, fix)
    elif context.transport == "sqs":
        given = (context.options.get("sqs-creation-attributes") or {}).get("MessageRetentionPeriod")
        kept = timedelta(seconds=float(given)) if given else _SQS
        fix = (
            'set broker_transport_options["sqs-creation-attributes"] = {"MessageRetentionPeriod": "1209600"} (queues '
            "that exist already: in AWS), and keep a guardian running"
        )
        yield from _kept("SQS", kept, fix)


def _kept(broker: str, kept: timedelta, fix: str) -> Iterator[Finding]:
    words = f"{broker} deletes messages after {shown(kept)}"
    if kept < _WEEK:
        yield warning(f"{words}: dead letters too, if no guardian has archived them by then", fix)
    else:
        yield fine(words)


def hold(context: Context) -> Iterator[Finding]:
    """Late acknowledgement against the time after which a message that a worker holds is delivered again."""
    if context.transport not in ("sqs", "pgmq"):
        return
    timeout = timedelta(seconds=float(context.options.get("visibility_timeout") or _HOLD.total_seconds()))
    late = [task for task in context.tasks if task.acks_late]
    long = [task for task in late if (limit := hard_limit(task)) is None or limit > timeout.total_seconds()]
    if long:
        yield warning(
            f"visibility_timeout is {shown(timeout)}: {named(long)}, acknowledged late, may run longer and runs twice",
            'give it a shorter time_limit, or raise broker_transport_options["visibility_timeout"]',
        )
