"""Waiting on a broker that offers no way to wait: the message is published at once, with an `eta`.

The worker that takes the message holds it in memory until the `eta`; `guardrails check` warns of that.
"""
# on its own: each way of waiting is a file, as each keeps the same protocol

from __future__ import annotations

from collections.abc import Sequence

from kombu import Queue

from celery_guardrails.transport.publisher import Envelope, Publisher
from celery_guardrails.transport.waiting.unlisted import Unlisted

__all__ = ["EtaWaiting"]


class EtaWaiting(Unlisted):
    """Publishes at once; the caller has written `eta` into the message's headers.

    Args:
        publisher: how to publish.
    """

    name = "eta, in the memory of the worker that takes it"
    outside = False

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def publish(self, envelope: Envelope, declare: Sequence[Queue], delay: float) -> None:
        """Publish now."""
        self._publisher.publish(envelope, declare)
