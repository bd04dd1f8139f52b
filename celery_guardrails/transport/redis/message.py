"""A message that was taken from Redis by script: it has a tag of its own, and failed commands about it are owed.

Owns the message's side of taking and acknowledging; the bookkeeping is in `qos.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import redis
from kombu.transport import redis as kombu_redis

from celery_guardrails.transport.redis.held import Fate
from celery_guardrails.transport.redis.record import Unreadable

__all__ = ["TakenMessage"]

logger = logging.getLogger("celery_guardrails.transport")


class TakenMessage(kombu_redis.Channel.Message):  # type: ignore[misc]
    """A message whose delivery tag is the tag of its take.

    Other messages may share the tag in its properties: kombu gives all queues of a binding the same tag.

    Attributes:
        taken_from: the queue that it was taken from; `None` if kombu itself has popped it.
    """

    taken_from: str | None = None

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        tag = getattr(channel, "handing_on", None)
        if tag is None:
            super().__init__(payload, channel=channel, **kwargs)
            return
        try:
            super().__init__(payload, channel=channel, **kwargs)
        except Exception as exc:
            raise Unreadable(f"{type(exc).__name__}: {exc}") from exc
        self.delivery_tag = tag
        self.taken_from = channel.handing_from

    def ack_if_held(self) -> bool:
        """Acknowledge the message; `False` if Redis has given it to another worker meanwhile.

        That happens if this worker could not say for the whole visibility timeout that it holds the message.
        """
        self.ack()
        return bool(self.channel.qos.was_held)

    def take_back(self, gone: Callable[[], None], back: Callable[[], None] | None = None) -> None:
        """Have the keeper put the message back after an acknowledgement that failed.

        Args:
            gone: called by the keeper if there is no message to put back: Redis did take the acknowledgement, or has
                given the message to another worker.
            back: called by the keeper when it has put the message back.
        """
        self.channel.custody.return_later([self.delivery_tag], Fate(gone, back))

    def ack_log_error(self, logger: Any, errors: Any, multiple: bool = False) -> None:
        """Acknowledge the message, as Celery does after a task has run: nobody needs the result.

        So the acknowledgement is sent together with the others of this turn of the event loop, if a loop runs. If the
        server refuses it, the keeper sends it again later.
        """
        if self.taken_from is not None and not self.acknowledged and self.channel.qos.gather(self.delivery_tag):
            self._state = "ACK"
            return
        try:
            super().ack_log_error(logger, errors, multiple)
        except redis.exceptions.RedisError as exc:
            self._log_owed("acknowledgement", exc)

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> None:
        """Put the message back, or drop it; if the server refuses, the keeper sends the command again later."""
        try:
            super().reject_log_error(logger, errors, requeue)
        except redis.exceptions.RedisError as exc:
            self._log_owed("rejection", exc)

    def _log_owed(self, what: str, exc: Exception) -> None:
        """Log, in one line, that the keeper sends it again: the custody has noted it already."""
        if self.channel.custody.trouble.note("restore", exc) is None:
            logger.warning("Redis did not take the %s of a message, and is asked again: %s", what, exc)
