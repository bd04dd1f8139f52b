"""Publishing the next attempt: the message as it came, with its counters moved on.

Owns the fast way of a retry. Arguments are not decoded and encoded again: the next attempt gets the same bytes.
`retry()` with other arguments or options goes Celery's way instead (`worker/child/retry_call.py`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from celery import Celery
from celery.signals import after_task_publish, before_task_publish
from kombu import Queue

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import PublishError
from celery_guardrails.letters.header import Header, write_header
from celery_guardrails.letters.replay import BROKER_HEADERS
from celery_guardrails.policy.decision import DeadLetter, Reason
from celery_guardrails.transport.body import as_published
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.routing import came_from, known_queue, queues_for, straight
from celery_guardrails.worker.failure.failed_run import FailedRun
from celery_guardrails.worker.failure.original import Original, original_of
from celery_guardrails.worker.failure.sentry import trace_on
from celery_guardrails.worker.failure.tracing import kept_context

__all__ = ["decide_unpublishable", "publish_again", "publish_later", "publish_retry", "republishable_original"]


def republishable_original(request: Any) -> Original | None:
    """The original message, if it is at hand and its counters are in its headers (in protocol 1 they are not)."""
    original = original_of(request)
    return original if original is not None and "task" in original.headers else None


def publish_retry(run: FailedRun, header: Header, delay: float) -> None:
    """Publish the next attempt of a failed run.

    Args:
        run: what failed.
        header: the header that the next attempt gets, this failure included.
        delay: seconds from the run's `now` until it may start; 0 is at once.

    Raises:
        PublishError: neither the broker nor the spool took it.
    """
    guard, task, request, now = run.guard, run.task, run.request, run.now
    original = republishable_original(request)
    if original is None:
        _publish_celery_way(task, request, header, delay)
        return
    envelope = _next_message(task, request, original, header, delay, now)
    envelope, declare = _to_its_queue(task.app, envelope, (request.delivery_info or {}).get("queue"))
    if before_task_publish.receivers or after_task_publish.receivers:
        _publish_with_signals(guard, task, request, envelope, declare, delay, now)
    else:
        guard.dispatch.run(envelope, declare, delay, now, _what(task, request))


def publish_again(run: FailedRun) -> None:
    """Publish the same message again, to the queue that it came from. This run does not count as an attempt.

    Args:
        run: the run that is to begin again.

    Raises:
        PublishError: neither the broker nor the spool took it, or the original is not at hand.
    """
    task, request, original = run.task, run.request, original_of(run.request)
    if original is None:
        raise PublishError("its queue", "the original message is not at hand")
    consumed = (request.delivery_info or {}).get("queue")
    envelope, declare = _to_its_queue(task.app, _same_message(task, request, original), consumed)
    run.guard.dispatch.run(envelope, declare, 0, run.now, f"{task.name}[{request.id}]")


def publish_later(run: FailedRun, header: Header, delay: float) -> None:
    """Publish the same message to come back as the same attempt, which has not begun.

    Args:
        run: the attempt.
        header: the header that the message gets.
        delay: seconds until it may come back.

    Raises:
        PublishError: neither the broker nor the spool took it, or the original is not at hand.
    """
    task, request, original = run.task, run.request, republishable_original(run.request)
    if original is None:
        raise PublishError("its queue", "the original message is not at hand")
    message = _same_message(task, request, original)
    message.headers["eta"] = (run.now + timedelta(seconds=delay)).isoformat()
    write_header(message.headers, header)
    envelope, declare = _to_its_queue(task.app, message, (request.delivery_info or {}).get("queue"))
    run.guard.dispatch.run(envelope, declare, delay, run.now, f"{task.name}[{request.id}]")


def decide_unpublishable(lost: PublishError) -> DeadLetter:
    """The decision on a retry that could not be published: a dead letter, in doubt unless the broker refused.

    Args:
        lost: why it could not be published.
    """
    return DeadLetter(Reason.RETRY_UNPUBLISHABLE, str(lost), in_doubt=not lost.refused)


def _to_its_queue(app: Celery, envelope: Envelope, consumed: str | None) -> tuple[Envelope, list[Queue]]:
    """Address a retry to the queue that the message came from, and to no other queue of its exchange."""
    queue = came_from(app, envelope.exchange, envelope.routing_key, envelope.headers, consumed).queue
    if queue is None:
        # A named exchange is declared with its queues: a virtual transport routes by what its process has declared.
        return envelope, queues_for(app, envelope.exchange, envelope.routing_key)
    known = known_queue(app, queue) if envelope.exchange else None
    return straight(envelope, queue), [known] if known is not None else []


def _next_message(task: Any, request: Any, original: Original, header: Header, delay: float, now: datetime) -> Envelope:
    message = _same_message(task, request, original)
    message.headers["retries"] = int(request.retries or 0) + 1
    message.headers["eta"] = (now + timedelta(seconds=delay)).isoformat() if delay > 0 else None
    trace_on(message.headers, task, request, now)
    write_header(message.headers, header)
    return message


def _same_message(task: Any, request: Any, original: Original) -> Envelope:
    properties, delivery = request.properties, request.delivery_info or {}
    return Envelope(
        body=as_published(original.body, original.content_encoding),
        exchange=delivery.get("exchange") or "",
        routing_key=delivery.get("routing_key") or "",
        content_type=original.content_type,
        content_encoding=original.content_encoding,
        headers={key: value for key, value in original.headers.items() if key not in BROKER_HEADERS},
        properties={key: properties[key] for key in ("correlation_id", "reply_to") if properties.get(key)},
        priority=delivery.get("priority"),
        once=not task.acks_late,
    )


def _what(task: Any, request: Any) -> str:
    return f"attempt {int(request.retries or 0) + 2} of {task.name}[{request.id}]"


def _publish_with_signals(
    guard: Guardrails, task: Any, request: Any, envelope: Envelope, declare: list[Queue], delay: float, now: datetime
) -> None:
    """Publish, and send Celery's publish signals: something, such as tracing, is connected to them."""
    body: tuple[Any, Any, dict[str, Any]] = (request.args, request.kwargs, {})
    common = {"sender": task.name, "body": body, "exchange": envelope.exchange, "routing_key": envelope.routing_key}
    with kept_context():
        before_task_publish.send(
            **common, declare=declare, headers=envelope.headers, properties=envelope.properties, retry_policy={}
        )
        guard.dispatch.run(envelope, declare, delay, now, _what(task, request))
        after_task_publish.send(**common, headers=envelope.headers)


def _publish_celery_way(task: Any, request: Any, header: Header, delay: float) -> None:
    # A message of protocol 1, or a task class whose own Strategy makes requests that are not ours.
    headers = dict(request.headers or {})
    write_header(headers, header)
    signature = task.signature_from_request(
        request, countdown=delay or None, retries=int(request.retries or 0) + 1, headers=headers
    )
    try:
        signature.apply_async()
    except Exception as exc:
        raise PublishError("the task's queue", f"{type(exc).__name__}: {exc}") from exc
