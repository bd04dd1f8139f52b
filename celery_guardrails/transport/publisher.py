"""Publishing so that success means the broker has the message.

Owns connections of its own, with publisher confirms and the mandatory flag where the broker has them, safe after a
fork and between threads. It must not know what is in a message.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from amqp.exceptions import AccessRefused, MessageNacked, NotFound, PreconditionFailed
from celery import Celery
from kombu import Connection, Producer, Queue

from celery_guardrails.errors import PublishError
from celery_guardrails.seams import REDIS_SPEED, holds
from celery_guardrails.transport.connection import connection_errors, opened
from celery_guardrails.transport.declare import declare as declare_on_rabbitmq
from celery_guardrails.transport.reach import Unroutable, reach, routes_itself
from celery_guardrails.transport.right import refusal

__all__ = ["Envelope", "Publisher"]

_MAX_IDLE = 10
_CONNECT = 4.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
# Trying again cannot help: the queue exists with other arguments, we may not write to it, or nothing is bound to it.
_FINAL = (PreconditionFailed, AccessRefused, Unroutable)
_NO_ROUTE = 312
_QUICK = 0.5
"""Seconds that a publish may take after one that took all its time in vain, for as long as that one took: a broker that
is away must not hold up every failing task in turn."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with its address. `exchange` "" means: straight to the queue named `routing_key`.

    `once`: it must not be there twice, so it is not published again when its confirmation gets lost.
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
    """Seconds for which its socket waits for an answer."""
    brief: bool
    """Whether it was opened in little time: its answers then have as little, so it is not kept."""
    routes_itself: bool
    """Whether kombu routes, so that a message that no queue gets is lost in silence."""
    kept: bool = False
    """Whether it has published before."""
    declared: set[int] = field(default_factory=set)
    """Hashes of the queues that need no further declaration; kombu keeps the same, but copies the queue to look."""


class Publisher:
    """Publishes confirmed messages over connections of its own.

    Args:
        app: the Celery application whose broker is used.
        timeout: how long one publish may take altogether, reconnecting included.

    Attributes:
        seconds: that time.
    """

    def __init__(self, app: Celery, timeout: timedelta = timedelta(seconds=5)) -> None:
        self._app = app
        self.seconds = timeout.total_seconds()
        self._idle: list[_Line] = []
        self._pid = os.getpid()
        self._away_until = 0.0

    def publish(self, envelope: Envelope, declare: Sequence[Queue] = ()) -> None:
        """Hand one message to the broker, and return when it has it.

        On RabbitMQ that is a confirm for a message that reached a queue; on Redis the reply to its write, once a queue
        is known to get it. A failed connection is opened anew until the time is up, which is half a second where the
        broker was away just now.
        A message whose confirmation got lost may be there: it is published again, unless it is `once`.

        Args:
            envelope: the message.
            declare: queues to declare first (once a connection).

        Raises:
            PublishError: it was not taken in time, is refused for good (`.refused`), or is `once` and `.unsure`.
        """
        began = time.monotonic()
        seconds = self.seconds if began >= self._away_until else min(_QUICK, self.seconds)
        until = began + seconds
        pause, said = _FIRST_PAUSE, None
        while True:
            line: _Line | None = None
            try:
                line = self._take(max(0.1, until - time.monotonic()))
                self._send(line, envelope, declare, max(0.1, until - time.monotonic()))
            except Exception as exc:  # noqa: BLE001 raised in the end, or what came before it
                if line is not None or said is None:
                    # a try that never reached the broker, for lack of time say, tells less than what that said before
                    said = exc
                final = _is_final(line, exc)
                if self._drop_failed(line, exc) and time.monotonic() < until:
                    continue
                if final or time.monotonic() + pause >= until:
                    raise self._given_up(envelope, said, seconds) from said
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
            # kombu changes the socket's own bound for it, four times a message, which costs as much as the rest of ours
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
                _keep_client(channel)
            producer = Producer(channel, auto_declare=False)
            return _Line(connection, producer, mandatory, bound, bound < usual / 2, routes_itself(channel))
        except BaseException:
            connection.collect()
            raise

    def _drop_failed(self, line: _Line | None, exc: Exception) -> bool:
        """Drop a line after an error; gives whether it may just have been old, so that a new one is worth a try."""
        stale = line is not None and line.kept and _is_broken(line, exc)
        self._drop(line)
        if stale:
            # the broker has restarted, say: the other lines are as old, and one by one would use up the time
            self._drop_idle()
        return stale

    def _drop_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._drop(self._idle.pop())

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


class _Unsure(Exception):
    """A message was sent that must not be sent again, and nobody said what became of it."""


def _declare(line: _Line, queue: Queue) -> None:
    """Declare what a message needs: a queue, or what has a `declare` of its own."""
    if line.mandatory and isinstance(queue, Queue):
        declare_on_rabbitmq(line.connection, queue)
    else:
        line.producer.maybe_declare(queue)


def _find_alive(line: _Line) -> None:
    """Find out before a message is sent that cannot be sent again whether its line is of any use.

    Raises:
        Exception: it is not; nothing was published.
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
    """Whether an error is what the broker said of a message: it has not got it."""
    return isinstance(exc, (*_FINAL, MessageNacked, *line.connection.channel_errors))


def _keep_client(channel: Any) -> None:
    """Have kombu's Redis channel use one client: it makes one for each command, at twice the cost of a publish."""
    if not holds(REDIS_SPEED):
        return
    kept = channel._create_client()

    @contextmanager
    def conn_or_acquire(client: Any = None) -> Iterator[Any]:
        yield client or kept

    channel.conn_or_acquire = conn_or_acquire


def _is_final(line: _Line | None, exc: Exception) -> bool:
    if line is None:
        return isinstance(exc, _FINAL)
    recoverable = (*connection_errors(line.connection), MessageNacked, NotFound)
    return isinstance(exc, (*_FINAL, _Unsure)) or not isinstance(exc, recoverable)


def _is_broken(line: _Line, exc: Exception) -> bool:
    """Whether it is the connection that failed, and not what was asked of it."""
    errors = line.connection
    return isinstance(exc, (OSError, *errors.connection_errors)) and not isinstance(exc, errors.channel_errors)
