from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_guardrails.transport.publisher import Publisher
from tests.conftest import Broker


class Line:
    """An application on a real broker, a publisher of ours, and a way to see what waits."""

    def __init__(self, broker: Broker, timeout: float = 5.0) -> None:
        from datetime import timedelta

        self.broker = broker
        self.app = Celery("transport-test", broker=broker.url, set_as_current=False)
        self.publisher = Publisher(self.app, timedelta(seconds=timeout))

    def bodies(self, queue: str) -> list[bytes]:
        """Take all that waits in a queue."""
        found: list[bytes] = []
        with self.app.connection_for_read() as connection:
            channel: Any = connection.channel()
            while True:
                message = channel.basic_get(queue, no_ack=True)
                if message is None:
                    return found
                body = getattr(message, "body", None)
                body = channel.message_to_python(message).body if body is None else body
                found.append(body.encode() if isinstance(body, str) else bytes(body))


@pytest.fixture
def line(broker: Broker) -> Iterator[Line]:
    made = Line(broker)
    yield made
    made.publisher.close()
    made.app.close()
