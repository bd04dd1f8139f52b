"""The dead-letter queue as its writers see it, and the queue beside it on which recoveries are reported.

Owns queue names, declarations and the two messages. Reading them is in `consumer.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery
from kombu import Queue

from celery_guardrails.errors import PublishError, RequeueFailed
from celery_guardrails.letters.codec import encode
from celery_guardrails.letters.record import SCHEMA_VERSION, Letter
from celery_guardrails.letters.recovery import Recovery, encode_recovery
from celery_guardrails.letters.replay import ReplayMessage
from celery_guardrails.transport.publisher import Envelope, Publisher
from celery_guardrails.transport.routing import address

__all__ = ["DeadLetterSender", "Replayer", "declared_queue", "recovered_queue"]

_JSON, _UTF8 = "application/json", "utf-8"


def declared_queue(name: str, arguments: Mapping[str, Any] | None = None) -> Queue:
    """A durable queue on the default exchange."""
    return Queue(name, routing_key=name, durable=True, queue_arguments=dict(arguments) if arguments else None)


def recovered_queue(dead_letter_queue: str) -> str:
    """The name of the queue on which workers report that requeued work succeeded."""
    return f"{dead_letter_queue}.recovered"


class DeadLetterSender:
    """What workers use: one confirmed publish for a dead letter, one for a recovery.

    Args:
        publisher: how to publish.
        queue: the application's dead-letter queue.
        arguments: the queue's arguments, such as `{"x-queue-type": "quorum"}`. An existing queue must have the same.
    """

    def __init__(self, publisher: Publisher, queue: str, arguments: Mapping[str, Any] | None = None) -> None:
        self._publisher = publisher
        self._queue = queue
        self._arguments = dict(arguments or {})
        self._declared: dict[str, Queue] = {}

    def send(self, letter: Letter, queue: str | None = None) -> None:
        """Publish a dead letter to its queue: the task's own if it is given, else the application's.

        Raises:
            PublishError: the broker did not confirm it in time.
        """
        envelope, declare = self.addressed(letter, queue)
        self._publisher.publish(envelope, declare)

    def addressed(self, letter: Letter, queue: str | None = None) -> tuple[Envelope, list[Queue]]:
        """The message that carries a dead letter, and the queue to declare for it."""
        name = queue or self._queue
        headers = {"guardrails_letter": SCHEMA_VERSION, "dead_letter_id": letter.origin_id, "dead_task": letter.task}
        envelope = Envelope(encode(letter), name, content_type=_JSON, content_encoding=_UTF8, headers=headers)
        return envelope, [self._declared_queue(name)]

    def report_recovered(self, recovery: Recovery) -> None:
        """Report that requeued work has succeeded.

        Raises:
            PublishError: the broker did not confirm it in time.
        """
        envelope, declare = self.recovery(recovery)
        self._publisher.publish(envelope, declare)

    def recovery(self, recovery: Recovery) -> tuple[Envelope, list[Queue]]:
        """The message that reports the success of requeued work, and the queue to declare for it."""
        name = recovered_queue(self._queue)
        envelope = Envelope(encode_recovery(recovery), name, content_type=_JSON, content_encoding=_UTF8)
        return envelope, [self._declared_queue(name)]

    def _declared_queue(self, name: str) -> Queue:
        queue = self._declared.get(name)
        if queue is None:
            queue = self._declared[name] = declared_queue(name, self._arguments)
        return queue


class Replayer:
    """Publishes a replayed message to where the original went."""

    def __init__(self, app: Celery, publisher: Publisher) -> None:
        self._app = app
        self._publisher = publisher

    def publish(self, message: ReplayMessage) -> None:
        """Publish a message, and wait for the broker's confirmation.

        Raises:
            RequeueFailed: nobody knows which queue the work came from.
            PublishError: the broker did not take the message, or did not confirm one that is `once` (`.unsure`).
        """
        if not (message.queue or message.routing_key):
            raise RequeueFailed(message.dead_letter_id, "the queue that it came from is not known")
        envelope, declare = address(self._app, message)
        try:
            self._publisher.publish(envelope, declare)
        except PublishError as exc:
            raise PublishError(message.queue, exc.reason, exc.refused, exc.unsure) from exc
