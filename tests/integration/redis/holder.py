"""One process that takes from Redis by script, as a worker does, for tests that look at it step by step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu import Connection, Consumer, Queue

from celery_guardrails.transport.redis import keeping
from celery_guardrails.transport.redis.held import Custody
from celery_guardrails.transport.redis.install import take_safely
from tests.port import reserve_port
from tests.waiting import wait_until

__all__ = ["Holder", "demote", "send"]


class Holder:
    """A consumer of the queue `q` that takes by script, as a worker's does."""

    def __init__(self, url: str, quarantined: Callable[[bytes, str, str], bool] = lambda *_: True) -> None:
        self.custody = Custody(quarantined)
        self.connection = Connection(url, transport_options={"visibility_timeout": 2})
        take_safely(self.connection, self.custody)
        self.channel = self.connection.channel()
        self.messages: list[Any] = []
        self.queue = Queue("q", routing_key="q")
        consumer = Consumer(self.channel, [self.queue], on_message=self.messages.append, accept=None)
        consumer.qos(prefetch_count=100)
        consumer.consume()

    def take(self, wanted: int) -> None:
        def more() -> bool:
            with contextlib.suppress(TimeoutError, Empty):
                self.connection.drain_events(timeout=0.2)
            return len(self.messages) >= wanted

        wait_until(more, 20, lambda: f"{wanted} messages, there are {len(self.messages)}")

    def pay(self, client: Any) -> None:
        keeping.restore(self.channel, client, self.custody)


def send(url: str, count: int) -> None:
    with Connection(url) as connection:
        producer = connection.Producer()
        for number in range(count):
            producer.publish({"n": number}, routing_key="q", declare=[Queue("q", routing_key="q")])


def demote(client: Any) -> None:
    """Make the server a replica of one that is not there: from now on it refuses to write."""
    client.replicaof("127.0.0.1", reserve_port())
