"""Acknowledging a message so that success means the broker has taken it, as `publisher.py` does for publishing.

Owns what each broker offers for that. Redis answers by itself, RabbitMQ's acknowledgement has no answer: but what a
channel says is worked off in order, so the answer to a question that follows it will do. Frames that come before that
answer are kept and read next, so that no message is handled inside of this.
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
    """Acknowledge a message, and return when its broker has taken that; on brokers that do not answer, at once.

    Args:
        message: kombu's.
        gone: called after an error, when the broker has taken the acknowledgement nevertheless, or may have: nobody
            may get the message again. On Redis that is asked later, and it is called from another thread.
        back: called after an error, likewise, when the broker still has the message.
        seconds: for an answer of RabbitMQ.

    Returns:
        Whether the message still was this consumer's; else its broker has given it to another one meanwhile.

    Raises:
        Exception: the broker did not say that it has taken it.
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
    """Ask RabbitMQ for what it does anyway (`channel.flow`), and wait until it says so."""
    connection = channel.connection
    channel.send_method(spec.Channel.Flow, "b", (True,))
    frames = _Frames.of(connection.transport)
    try:
        frames.until(channel.channel_id, until)
    finally:
        loop = get_event_loop()
        if frames.kept and loop is not None:  # its socket may have nothing more to say
            loop.call_soon(connection.client.transport.on_readable, connection, loop)


class _Frames:
    """Stands in for the `read_frame` of one of py-amqp's transports: what was kept comes before what is read."""

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
        """Read up to the answer, which is not kept.

        Raises:
            OSError: it does not come in time, or the connection is lost.
        """
        while True:
            with self._transport.having_timeout(max(0.01, end - time.monotonic())):
                frame = self._read()
            method = unpack_from(">HH", frame[2], 0) if frame[0] == _METHOD else None
            if frame[1] == channel and method == spec.Channel.FlowOk:
                return
            self.kept.append(frame)
            if method == spec.Connection.Close or (frame[1] == channel and method == spec.Channel.Close):
                raise ConnectionError("the broker closes it")
            if time.monotonic() >= end:
                raise TimeoutError("the broker does not answer")
