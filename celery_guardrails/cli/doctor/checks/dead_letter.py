"""The dead-letter queues: whether they can be declared as configured, and what waits in them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from amqp.exceptions import AccessRefused
from kombu import Connection

from celery_guardrails.cli.doctor.context import Context, StoreAway
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, warning
from celery_guardrails.cli.output import span
from celery_guardrails.command import celery_command
from celery_guardrails.letters.codec import NewerSchema, decode
from celery_guardrails.text import count_of
from celery_guardrails.transport.dead_letter import declared_queue
from celery_guardrails.transport.declare import declare
from celery_guardrails.transport.depth import depth
from celery_guardrails.transport.right import refusal

__all__ = ["queues"]

_FIX = "set dead_letter.queue_arguments to the arguments of the existing queue, or delete the queue once it is empty"


def queues(context: Context) -> Iterator[Finding]:
    """Each dead-letter queue, declared as the first dead letter would declare it."""
    connection = context.broker.connection
    arguments = context.settings.dead_letter.queue_arguments
    for name in context.dead_letter_queues:
        try:
            count = _declare(connection, name, arguments)
        except AccessRefused as exc:
            yield fault(f"{name} cannot be declared: {refusal(exc)}", context.rights_fix())
            continue
        except (*connection.channel_errors, *connection.connection_errors) as exc:
            reason = " ".join(str(exc).split())
            yield fault(f"{name} cannot be declared: {reason}", _FIX)
            continue
        yield _waiting(context, name, count)


def _declare(connection: Connection, name: str, arguments: Mapping[str, Any]) -> int:
    """Declare a queue, as far as this user may, and return the number of messages in it."""
    queue = declared_queue(name, arguments)
    if connection.transport.driver_type == "amqp":
        declare(connection, queue)
        return depth(connection, name) or 0
    with connection.channel() as channel:
        declared = queue(channel).queue_declare()
        return int(declared.message_count) if declared is not None else 0


def _waiting(context: Context, name: str, count: int) -> Finding:
    if not count:
        return fine(f"{name} exists, and nothing waits in it")
    since = _oldest(context, name)
    words = f"{name}: {count_of(count, 'dead letter waits', 'dead letters wait')} for a guardian"
    words += f", the oldest for {span(context.now - since)}" if since else ""
    try:
        alive = bool(context.guardians_alive)
    except StoreAway:
        alive = False
    if alive:
        return fine(words)
    return warning(words, f"start one: {celery_command(context.project.name, 'guardian')}")


def _oldest(context: Context, name: str) -> datetime | None:
    """When the oldest letter died; `None` except on Redis, where a queue can be read without taking from it."""
    if context.transport != "redis":
        return None
    prefix = getattr(context.broker.connection.default_channel, "global_keyprefix", "") or ""
    raw = context.redis.lindex(f"{prefix}{name}", -1)
    try:
        return decode(_body(raw)).died_at if raw else None
    except (ValueError, KeyError, TypeError, NewerSchema):
        return None


def _body(raw: bytes) -> bytes:
    """The body of a message as Redis keeps it: JSON whose body is base64."""
    return base64.b64decode(json.loads(raw)["body"])
