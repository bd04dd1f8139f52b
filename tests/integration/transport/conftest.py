from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_guardrails.transport.publisher import Publisher
from tests.conftest import Broker
from tests.integration.transport.dock import Dock


class Line:
    """An application on a real broker, a publisher of ours, and a way to see what waits.

    Its publisher is patient: a broker on a busy machine may take seconds for its handshake.
    """

    def __init__(self, broker: Broker, timeout: float = 20.0) -> None:
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


GIVES_UP = 3.0
"""Seconds for a publisher whose broker is away."""
IS_TOLD = 8.0
"""Seconds for a publisher that is refused: it tries again for as long, and has to reach the broker in them once."""


@pytest.fixture
def line(broker: Broker) -> Iterator[Line]:
    made = Line(broker)
    yield made
    made.publisher.close()
    made.app.close()


@pytest.fixture
def dock(line: Line, tmp_path: Path) -> Dock:
    return Dock(line, tmp_path)


@pytest.fixture
def on_rabbitmq(rabbitmq_broker: Broker, tmp_path: Path) -> Iterator[Dock]:
    """A dock on RabbitMQ, whose publisher soon gives up."""
    line = Line(rabbitmq_broker, IS_TOLD)
    yield Dock(line, tmp_path)
    line.publisher.close()
    line.app.close()


@pytest.fixture
def away(broker: Broker, tmp_path: Path) -> Iterator[Dock]:
    """A dock whose broker is away."""
    dock = Dock(Line(broker, timeout=0.5), tmp_path)
    broker.server.stop()
    yield dock
    broker.server.start()
    dock.line.publisher.close()
    dock.line.app.close()
