"""Publishing so that success means the broker has the message.

Owns connections of its own, with publisher confirms and the mandatory flag where the broker has them, safe after a
fork and between threads. It must not know what is in a message.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from amqp.exceptions import AccessRefused, MessageNacked, NotFound, PreconditionFailed
from celery import Celery
from kombu import Connection, Producer, Queue

from celery_guardrails.errors import PublishError
from celery_guardrails.transport.connection import connection_errors, opened

__all__ = ["Envelope", "Publisher"]

_MAX_IDLE = 10
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
# Trying again cannot help: the queue exists with other arguments, or we may not write to it.
_FINAL = (PreconditionFailed, AccessRefused)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with its address. `exchange` "" means: straight to the queue named `routing_key`."""

    body: bytes
    routing_key: str
    exchange: str = ""
    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    priority: int | None = None


@dataclass(slots=True)
class _Line:
    connection: Connection
    producer: Producer
    mandatory: bool


class Publisher:
    """Publishes confirmed messages over connections of its own.

    Args:
        app: the Celery application whose broker is used.
        timeout: how long one publish may take altogether, reconnecting included.
    """

    def __init__(self, app: Celery, timeout: timedelta = timedelta(seconds=5)) -> None:
        self._app = app
        self._timeout = timeout.total_seconds()
        self._idle: list[_Line] = []
        self._pid = os.getpid()

    def publish(self, envelope: Envelope, declare: Sequence[Queue] = ()) -> None:
        """Hand one message to the broker, and return when it has it.

        On RabbitMQ that is a confirm for a message that reached a queue; on Redis the reply to its write. A failed
        connection is opened anew until the time is up. Whether a message arrived whose confirmation got lost is
        not known: it may be published twice.

        Args:
            envelope: the message.
            declare: queues to declare first (once a connection).

        Raises:
            PublishError: the broker did not take it in time, or refuses it for good.
        """
        until = time.monotonic() + self._timeout
        pause = _FIRST_PAUSE
        while True:
            line: _Line | None = None
            try:
                line = self._take()
                self._send(line, envelope, declare, max(0.1, until - time.monotonic()))
            except Exception as exc:
                final = isinstance(exc, _FINAL) or not (line is None or _is_recoverable(line, exc))
                self._drop(line)
                if final or time.monotonic() + pause >= until:
                    raise PublishError(envelope.routing_key, f"{type(exc).__name__}: {exc}") from exc
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._give(line)
                return

    def close(self) -> None:
        """Close the idle connections of this process."""
        idle, self._idle = self._idle, []
        if self._pid == os.getpid():
            for line in idle:
                line.connection.release()

    def _send(self, line: _Line, envelope: Envelope, declare: Sequence[Queue], seconds: float) -> None:
        line.producer.publish(
            envelope.body,
            exchange=envelope.exchange,
            routing_key=envelope.routing_key,
            content_type=envelope.content_type or "application/data",
            content_encoding=envelope.content_encoding or "binary",
            headers=envelope.headers,
            priority=envelope.priority or 0,
            delivery_mode=2,
            declare=list(declare),
            mandatory=line.mandatory,
            confirm_timeout=seconds,
            **envelope.properties,
        )

    def _take(self) -> _Line:
        if self._pid != os.getpid():
            # a fork inherits the sockets of its parent: leave them alone
            self._idle, self._pid = [], os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return self._open()

    def _give(self, line: _Line) -> None:
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(line)
        else:
            self._drop(line)

    def _open(self) -> _Line:
        connection = opened(self._app, confirm=True, timeout=min(self._timeout, 4.0))
        mandatory = connection.transport.driver_type == "amqp"
        try:
            return _Line(connection, Producer(connection.channel(), auto_declare=False), mandatory)
        except BaseException:
            connection.collect()
            raise

    def _drop(self, line: _Line | None) -> None:
        if line is None:
            return
        try:
            if line.mandatory:
                line.connection.collect()  # an AMQP close waits for an answer that may never come
            else:
                line.connection.release()
        except Exception:  # noqa: BLE001 the connection is given up, whatever its close says
            return


def _is_recoverable(line: _Line, exc: Exception) -> bool:
    return isinstance(exc, (*connection_errors(line.connection), MessageNacked, NotFound))
