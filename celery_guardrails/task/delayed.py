"""Publishes guarded tasks that have a `countdown`, an `eta` or `expires`; other tasks do not come here.

Owns the differences from Celery: a delayed message waits outside the workers and is published with confirms, like a
retry; `expires` does not become the message's lifetime, after which RabbitMQ would drop it silently. Celery's
`send_task` does the rest, with a producer of ours around its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from celery import Celery
from celery.utils.quorum_queues import detect_quorum_queues
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu import Connection, Queue
from kombu.compression import compress
from kombu.exceptions import OperationalError
from kombu.serialization import dumps

from celery_guardrails.app.guardrails import Guardrails, is_plain
from celery_guardrails.errors import PublishError
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.waiting.protocol import Waiting

__all__ = ["apply_timed", "return_to_queue"]

logger = logging.getLogger("celery_guardrails.worker")

# Arguments of `Producer.publish` that are not properties of the message. Our messages are always persistent and
# confirmed, and our publisher tries again by itself.
_NOT_PROPERTIES = (
    "retry", "retry_policy", "delivery_mode", "mandatory", "immediate", "timeout", "confirm_timeout", "expiration",
)  # fmt: skip


_CHOICES = ("connection", "producer", "publisher")


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one task is published.

    `delay` is in seconds; 0: the message does not wait. `eta` is set where Celery must not see it: our producer writes
    it into the message. `lifetime`: `expires` becomes the message's lifetime, as in Celery. `once`: the task runs at
    most once.
    """

    waiting: Waiting
    delay: float
    eta: str | None
    lifetime: bool
    once: bool = False

    @property
    def is_plain(self) -> bool:
        return self.delay <= 0 and self.lifetime


def apply_timed(task: Any, options: dict[str, Any], send: Callable[..., Any]) -> Any:
    """Publish a task whose options have a `countdown`, an `eta` or `expires`.

    Args:
        task: the guarded task.
        options: the caller's.
        send: Celery's `apply_async` with the task's arguments filled in; it takes the options.

    Raises:
        kombu.exceptions.OperationalError: the broker did not take the message. It is not spooled: the caller knows.
    """
    try:
        plan = None if is_plain(task) else _plan(task, options)
    except Exception:
        logger.warning("guardrails failed to publish %s: Celery publishes it", task.name, exc_info=True)
        plan = None
    if plan is None or plan.is_plain:
        return send(**options)
    if plan.eta is not None:
        options.update(countdown=None, eta=None)
    with _acquired(task.app, options) as producer:
        return send(**options, producer=_Producer(producer, plan))


def _plan(task: Any, options: Mapping[str, Any]) -> _Plan | None:
    app: Celery = task.app
    if app.conf.task_always_eager or app.conf.task_protocol != 2:
        return None
    guard = Guardrails.of(app)
    expires = options.get("expires", task.expires)
    policy = guard.policy_of(task).policy
    lifetime = expires is None or policy.on_expired == "drop"
    waiting = guard.waiting
    eta = _eta(app, options.get("countdown"), options.get("eta")) if waiting.outside else None
    if eta is None or not _is_ours(app, options):
        return _Plan(waiting, 0.0, None, lifetime)
    countdown = options.get("countdown")
    delay = float(countdown) if countdown else (eta - app.now()).total_seconds()
    # With quorum queues, Celery would publish it to its delay levels itself, unconfirmed, and lose the destination.
    hidden = detect_quorum_queues(app, "amqp")[0]
    return _Plan(waiting, delay, eta.isoformat() if hidden else None, lifetime, once=policy.acks == "early")


def _eta(app: Celery, countdown: Any, eta: Any) -> datetime | None:
    """When it is due, computed as in Celery; `None`: at once, or a wrong value, which Celery refuses."""
    if countdown:
        if isinstance(countdown, bool) or not isinstance(countdown, (int, float)) or not 0 < countdown < 2**31:
            return None
        due = app.now() + timedelta(seconds=countdown)
    elif isinstance(eta, (str, datetime)):
        due = maybe_iso8601(eta)
    else:
        return None
    aware: datetime = maybe_make_aware(due, app.timezone)
    return aware if aware > app.now() else None


@contextmanager
def _acquired(app: Celery, options: dict[str, Any]) -> Iterator[Any]:
    """The producer that Celery would use. Removes the options by which a caller chooses one."""
    connection, given, publisher = (options.pop(name, None) for name in _CHOICES)
    if connection:
        yield app.amqp.Producer(connection, auto_declare=False)
    else:
        with app.producer_or_acquire(given or publisher) as producer:
            yield producer


def _is_ours(app: Celery, options: Mapping[str, Any]) -> bool:
    """Whether a task goes to the application's own broker, where `waiting` publishes: a caller may choose another."""
    chosen = [options[name] for name in _CHOICES if options.get(name)]
    if not chosen:
        return True
    theirs = chosen[0] if isinstance(chosen[0], Connection) else chosen[0].connection
    with app.connection_for_write() as ours:
        return not _places(ours).isdisjoint(_places(theirs))


def _places(connection: Any) -> set[str]:
    return {str(connection.as_uri(include_password=True)), *(str(url) for url in connection.alt or ())}


def return_to_queue(app: Celery, options: dict[str, Any]) -> None:
    """Send a retry that Celery publishes back to the queue that its message came from, and to no other queue.

    Args:
        app: the application.
        options: of `apply_async`, with the delivery information of the attempt before; changed in place.
    """
    queue = options.pop("queue", None)
    if queue is not None and queue in app.amqp.queues:
        options.update(queue=queue, exchange="", routing_key=queue)


class _Producer:
    """Wraps a producer of Celery's: publishes tasks by the plan, and everything else (events) as usual."""

    def __init__(self, producer: Any, plan: _Plan) -> None:
        self._producer = producer
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **options: Any) -> Any:
        """Publish as kombu's producer does, but tasks by the plan."""
        plan, headers = self._plan, options.get("headers")
        if headers is None or "task" not in headers:
            if plan.eta is not None and isinstance(body, dict) and body.get("type") == "task-sent":
                body["eta"] = plan.eta
            return self._producer.publish(body, **options)
        if plan.delay > 0:
            if plan.eta is not None:
                headers["eta"] = plan.eta
            return self._wait(body, **options)
        if not plan.lifetime:
            options.pop("expiration", None)
        return self._producer.publish(body, **options)

    def _wait(self, body: Any, declare: Any = None, **options: Any) -> None:
        options = {key: value for key, value in options.items() if key not in _NOT_PROPERTIES}
        envelope = _envelope(body, once=self._plan.once, **options)
        queues = [entity for entity in declare or () if isinstance(entity, Queue)]
        try:
            self._plan.waiting.publish(envelope, queues, self._plan.delay)
        except PublishError as lost:
            raise OperationalError(str(lost)) from lost


def _envelope(
    body: Any,
    once: bool,
    headers: dict[str, Any],
    exchange: Any = None,
    routing_key: str | None = None,
    serializer: str | None = None,
    compression: str | None = None,
    priority: int | None = None,
    **properties: Any,
) -> Envelope:
    """The message that kombu's producer would publish, as an envelope."""
    content_type, content_encoding, data = dumps(body, serializer)
    payload = data.encode(content_encoding) if isinstance(data, str) else bytes(data)
    if compression:
        payload, headers["compression"] = compress(payload, compression)
    return Envelope(
        body=payload,
        exchange=str(getattr(exchange, "name", exchange) or ""),
        routing_key=routing_key or "",
        content_type=content_type,
        content_encoding=content_encoding,
        headers=headers,
        properties={key: value for key, value in properties.items() if value is not None},
        priority=priority,
        once=once,
    )
