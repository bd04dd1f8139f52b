"""Acknowledging a message so that success means the broker has taken it, as `publisher.py` does for publishing.

Owns what each broker offers for that. Redis answers an acknowledgement. RabbitMQ does not, but it works off a channel's
commands in order: its answer to a later command proves that it has taken the acknowledgement. Frames that come before
that answer are kept and read next, so that no message is handled in between.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from struct import unpack_from
from typing import Any

from amqp import spec
from amqp.channel import Channel
from kombu.asynchronous import get_event_loop

from celery_guardrails.seams import AMQP_ACK, holds

__all__ = ["acknowledge"]

_METHOD = 1
"""The type of the frames that hold methods (AMQP 0-9-1, section 4.2.3)."""


def acknowledge(
    message: Any, gone: Callable[[], None], back: Callable[[], None] | None = None, seconds: float = 4.0
) -> bool:
    """Acknowledge a message, and return when the broker has taken it; on brokers that do not answer, at once.

    Args:
        message: kombu's.
        gone: called after an error, if the broker has taken the acknowledgement all the same, or may have taken it: it
            may never deliver the message again. On Redis this is found out later, and another thread calls `gone`.
        back: called after an error, if the broker still has the message; on Redis also later, by another thread.
        seconds: how long to wait for RabbitMQ's answer.

    Returns:
        Whether this consumer still held the message. If not, the broker has given it to another consumer meanwhile.

    Raises:
        Exception: the broker did not confirm that it has taken the acknowledgement.
    """
    if hasattr(message, "ack_if_held"):
        try:
            return bool(message.ack_if_held())
        except BaseException:
            message.take_back(gone, back)
            raise
    try:
        message.ack()
    except BaseException:
        if back is not None:
            back()
        raise
    if isinstance(message.channel, Channel) and holds(AMQP_ACK):
        try:
            _await_answer(message.channel, time.monotonic() + seconds)
        except BaseException:
            gone()
            raise
    return True


def _await_answer(channel: Any, until: float) -> None:
    """Send RabbitMQ a command that changes nothing (`channel.flow`), and wait for its answer."""
    connection = channel.connection
    channel.send_method(spec.Channel.Flow, "b", (True,))
    frames = _Frames.of(connection.transport)
    try:
        frames.until(channel.channel_id, until)
    finally:
        loop = get_event_loop()
        if frames.kept and loop is not None:  # the socket may not become readable again
            loop.call_soon(connection.client.transport.on_readable, connection, loop)


class _Frames:
    """Replaces the `read_frame` of one of py-amqp's transports: gives the kept frames first, then reads new ones."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._read = transport.read_frame
        self.kept: deque[tuple[int, int, Any]] = deque()

    @classmethod
    def of(cls, transport: Any) -> _Frames:
        if not isinstance(transport.read_frame, cls):
            transport.read_frame = cls(transport)
        frames: _Frames = transport.read_frame
        return frames

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.kept.popleft() if self.kept else self._read(*args, **kwargs)

    def until(self, channel: int, end: float) -> None:
        """Read up to the answer, and keep every frame before it.

        Raises:
            OSError: the answer does not come in time, or the connection is lost.
        """
        while True:
            with self._transport.having_timeout(max(0.01, end - time.monotonic())):
                frame = self._read()
            method = unpack_from(">HH", frame[2], 0) if frame[0] == _METHOD else None
            if frame[1] == channel and method == spec.Channel.FlowOk:
                return
            self.kept.append(frame)
            if method == spec.Connection.Close or (frame[1] == channel and method == spec.Channel.Close):
                raise ConnectionError("the broker closes the channel or the connection")
            if time.monotonic() >= end:
                raise TimeoutError("the broker does not answer")
