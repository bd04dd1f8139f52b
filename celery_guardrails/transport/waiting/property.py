"""Waiting on SQS and PGMQ: their messages carry a delay of their own.

Owns the property `DelaySeconds`, which kombu's two transports read when they publish.
"""
# on its own: each way of waiting is a file, as each keeps the same protocol

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kombu import Queue

from celery_guardrails.transport.publisher import Envelope, Publisher
from celery_guardrails.transport.waiting.unlisted import Unlisted

__all__ = ["SQS_LIMIT", "DelayProperty"]

SQS_LIMIT = 900
"""Seconds; SQS delays no message longer (Amazon SQS developer guide, "delay queues and message timers")."""

# As on RabbitMQ: a message is better late by so many seconds than most of a second in a worker's memory.
_LATE = 0.05


class DelayProperty(Unlisted):
    """Publishes at once, with the delay as a property of the message, in whole seconds.

    If the delay is longer than the broker's limit, the message waits for the rest, and for the last part of a second,
    in the memory of the worker that takes it, by its `eta`. On an SQS FIFO queue, which cannot delay a single message,
    it waits there for the whole delay.

    Args:
        publisher: how to publish.
        limit: the longest delay that the broker takes, in seconds; `None` for no limit.
    """

    outside = True

    def __init__(self, publisher: Publisher, limit: int | None) -> None:
        self._publisher = publisher
        self._limit = limit
        self.name = "the broker's own delay" + (f", up to {limit} s at a time" if limit else "")

    def publish(self, envelope: Envelope, declare: Sequence[Queue], delay: float) -> None:
        """Publish, so that a consumer gets it `delay` seconds from now, or after the limit if that is less.

        Raises:
            PublishError: the broker did not take the message.
        """
        seconds = int(delay + _LATE)
        if self._limit is not None:
            seconds = min(seconds, self._limit)
        properties = {key: value for key, value in envelope.properties.items() if key != "DelaySeconds"}
        if seconds >= 1 and not envelope.routing_key.endswith(".fifo"):
            properties["DelaySeconds"] = seconds
        self._publisher.publish(replace(envelope, properties=properties), declare)
