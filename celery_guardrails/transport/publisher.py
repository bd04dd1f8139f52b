"""Publishing in such a way that success means: the broker has the message.

Owns connections of its own, with publisher confirms and the mandatory flag where the broker has them, safe after a
fork and between threads. It must not know what is in a message.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from amqp.exceptions import AccessRefused, MessageNacked, NotFound, PreconditionFailed
from celery import Celery
from kombu import Connection, Producer, Queue

from celery_guardrails.errors import PublishError
from celery_guardrails.transport.connection import connection_errors, give_up, opened
from celery_guardrails.transport.declare import declare as declare_on_rabbitmq
from celery_guardrails.transport.reach import Unroutable, reach, routes_itself
from celery_guardrails.transport.redis.publish_client import keep_client
from celery_guardrails.transport.right import refusal

__all__ = ["Envelope", "Publisher"]

_MAX_IDLE = 10
_CONNECT = 4.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
# A further try cannot succeed: the queue exists with other arguments, we may not write to it, or no queue is bound.
_FINAL = (PreconditionFailed, AccessRefused, Unroutable)
_NO_ROUTE = 312
_QUICK = 0.5
"""Seconds that a publish may take after a publish has failed for the whole `timeout`. The short limit holds for as long
as that publish took: a broker that is away must not hold up every failing task in turn."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with its address. `exchange` "" means: straight to the queue named `routing_key`.

    `once`: the message must not be published twice, so a lost confirmation leads to no further try.
    """

    body: bytes
    routing_key: str
    exchange: str = ""
    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    priority: int | None = None
    once: bool = False


@dataclass(slots=True)
class _Line:
    connection: Connection
    producer: Producer
    mandatory: bool
    bound: float
    """Seconds for which the socket waits for an answer."""
    brief: bool
    """Whether the line was opened with little time: its answers have as little time, so the line is not kept."""
    routes_itself: bool
    """Whether kombu routes, not the broker: a message that no queue gets is then lost in silence."""
    kept: bool = False
    """Whether the line has published before."""
    declared: set[int] = field(default_factory=set)
    """Hashes of the queues that need no further declaration. kombu remembers them too, but copies the queue to look."""


class Publisher:
    """Publishes confirmed messages over connections of its own.

    Args:
        app: the Celery application whose broker is used.
        timeout: how long one publish may take altogether, reconnecting included.

    Attributes:
        seconds: `timeout` in seconds.
    """

    def __init__(self, app: Celery, timeout: timedelta = timedelta(seconds=5)) -> None:
        self._app = app
        self.seconds = timeout.total_seconds()
        self._idle: list[_Line] = []
        self._pid = os.getpid()
        self._away_until = 0.0

    def publish(self, envelope: Envelope, declare: Sequence[Queue] = ()) -> None:
        """Publish one message, and return when the broker has it.

        RabbitMQ has it when it confirms a message that reached a queue; Redis when it answers the write, once a queue
        is known to get the message. A failed connection is opened again until the time is up. The time is half a second
        if the broker was away just now.
        The broker may have a message whose confirmation got lost: it is published again, unless it is `once`.

        Args:
            envelope: the message.
            declare: queues to declare first (once a connection).

        Raises:
            PublishError: the broker did not take the message in time, or refuses it for good (`.refused`), or did not
                confirm a message that is `once` (`.unsure`).
        """
        began = time.monotonic()
        seconds = self.seconds if began >= self._away_until else min(_QUICK, self.seconds)
        until = began + seconds
        pause, reason = _FIRST_PAUSE, None
        while True:
            line: _Line | None = None
            try:
                line = self._take(max(0.1, until - time.monotonic()))
                self._send(line, envelope, declare, max(0.1, until - time.monotonic()))
            except Exception as exc:  # noqa: BLE001 the last error, or the one before it, is raised in the end
                if line is not None or reason is None:
                    # a later try that did not reach the broker must not replace the broker's own error
                    reason = exc
                final = _is_final(line, exc)
                if self._drop_failed(line, exc) and time.monotonic() < until:
                    continue
                if final or time.monotonic() + pause >= until:
                    raise self._given_up(envelope, reason, seconds) from reason
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._away_until = 0.0
                self._give(line)
                return

    def close(self) -> None:
        """Close the idle connections of this process."""
        idle, self._idle = self._idle, []
        if self._pid == os.getpid():
            for line in idle:
                line.connection.release()

    def _send(self, line: _Line, envelope: Envelope, declare: Sequence[Queue], seconds: float) -> None:
        undeclared = [queue for queue in declare if hash(queue) not in line.declared]
        if envelope.exchange and line.routes_itself:
            reach(line.producer, envelope.exchange, envelope.routing_key, declare)
        for queue in undeclared:
            _declare(line, queue)
        if envelope.once:
            _find_alive(line)
        try:
            self._hand_over(line, envelope, seconds)
        except Exception as exc:
            if envelope.once and not _is_answer(line, exc):
                raise _Unsure(f"{type(exc).__name__}: {exc}") from exc
            raise
        line.declared.update(hash(queue) for queue in undeclared if queue.can_cache_declaration)

    def _hand_over(self, line: _Line, envelope: Envelope, seconds: float) -> None:
        line.producer.publish(
            envelope.body,
            exchange=envelope.exchange,
            routing_key=envelope.routing_key,
            content_type=envelope.content_type or "application/data",
            content_encoding=envelope.content_encoding or "binary",
            headers=envelope.headers,
            priority=envelope.priority or 0,
            delivery_mode=2,
            mandatory=line.mandatory,
            # With a value, kombu changes the socket's timeout four times a message: that costs as much as all our work.
            confirm_timeout=seconds if seconds < line.bound else None,
            **envelope.properties,
        )

    def _given_up(self, envelope: Envelope, exc: Exception, seconds: float) -> PublishError:
        refused = isinstance(exc, (*_FINAL, NotFound)) or getattr(exc, "reply_code", None) == _NO_ROUTE
        if not refused and seconds == self.seconds:  # a quick try that fails says nothing new
            self._away_until = time.monotonic() + seconds
        if isinstance(exc, _Unsure):
            return PublishError(envelope.routing_key, str(exc), unsure=True)
        return PublishError(envelope.routing_key, refusal(exc), refused)

    def _take(self, seconds: float) -> _Line:
        if self._pid != os.getpid():
            # a fork inherits the sockets of its parent: leave them alone
            self._idle, self._pid = [], os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return self._open(seconds)

    def _give(self, line: _Line) -> None:
        if len(self._idle) < _MAX_IDLE and not line.brief:
            line.kept = True
            self._idle.append(line)
        else:
            self._drop(line)

    def _open(self, seconds: float) -> _Line:
        usual = min(self.seconds, _CONNECT)
        bound = min(usual, seconds)
        connection = opened(self._app, confirm=True, timeout=bound)
        mandatory = connection.transport.driver_type == "amqp"
        try:
            channel = connection.channel()
            if connection.transport.driver_type == "redis":
                keep_client(channel)
            producer = Producer(channel, auto_declare=False)
            return _Line(connection, producer, mandatory, bound, bound < usual / 2, routes_itself(channel))
        except BaseException:
            connection.collect()
            raise

    def _drop_failed(self, line: _Line | None, exc: Exception) -> bool:
        """Drop a line after an error; `True` if it may have failed only for its age: a new line is worth a try."""
        stale = line is not None and line.kept and _is_broken(line, exc)
        self._drop(line)
        if stale:
            # The broker may have restarted: the other lines are as old, and trying each would use up the time.
            self._drop_idle()
        return stale

    def _drop_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._drop(self._idle.pop())

    def _drop(self, line: _Line | None) -> None:
        if line is not None:
            give_up(line.connection)


class _Unsure(Exception):
    """A message that must not be sent twice was sent, and the broker did not confirm it."""


def _declare(line: _Line, queue: Queue) -> None:
    """Declare what a message needs: a queue, or an object with a `declare` method."""
    if line.mandatory and isinstance(queue, Queue):
        declare_on_rabbitmq(line.connection, queue)
    else:
        line.producer.maybe_declare(queue)


def _find_alive(line: _Line) -> None:
    """Check that a line works, before it sends a message that must not be sent twice.

    Raises:
        Exception: the line does not work; nothing was published.
    """
    if not line.kept:
        return
    channel = line.producer.channel
    if line.mandatory:
        channel.flow(True)
    elif line.connection.transport.driver_type == "redis":
        with channel.conn_or_acquire() as client:
            client.ping()


def _is_answer(line: _Line, exc: Exception) -> bool:
    """Whether an error is the broker's answer to a message: then the broker does not have the message."""
    return isinstance(exc, (*_FINAL, MessageNacked, *line.connection.channel_errors))


def _is_final(line: _Line | None, exc: Exception) -> bool:
    if line is None:
        return isinstance(exc, _FINAL)
    recoverable = (*connection_errors(line.connection), MessageNacked, NotFound)
    return isinstance(exc, (*_FINAL, _Unsure)) or not isinstance(exc, recoverable)


def _is_broken(line: _Line, exc: Exception) -> bool:
    """Whether the connection failed, and not only the command that was sent on it."""
    errors = line.connection
    return isinstance(exc, (OSError, *errors.connection_errors)) and not isinstance(exc, errors.channel_errors)
