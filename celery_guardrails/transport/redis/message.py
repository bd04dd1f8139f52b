"""A message that was taken from Redis by script: its tag is its own, and what Redis does not hear of it is owed.

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
    """A message whose delivery tag is the one that it was taken with.

    The tag in its properties may be shared: kombu gives all queues of a binding the same one.

    Attributes:
        taken_from: the queue that it was taken from; `None` where kombu has popped it.
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
        """Acknowledge it, and say whether it still was this worker's: else somebody else has been given it.

        That happens when this worker could say nothing of it for the visibility timeout.
        """
        self.ack()
        return bool(self.channel.qos.was_held)

    def take_back(self, gone: Callable[[], None], back: Callable[[], None] | None = None) -> None:
        """Have it put back after an acknowledgement that failed.

        Args:
            gone: called by the keeper when there is nothing to put back: Redis has heard of the acknowledgement after
                all, or somebody else has been given it.
            back: called by the keeper when it has put it back.
        """
        self.channel.custody.return_later([self.delivery_tag], Fate(gone, back))

    def ack_log_error(self, logger: Any, errors: Any, multiple: bool = False) -> None:
        """Acknowledge it, as Celery does for what has run: nobody looks at what comes of it.

        So it is sent with the others of this turn of the event loop, where there is one. A server that refuses is told
        later, by the keeper.
        """
        if self.taken_from is not None and not self.acknowledged and self.channel.qos.gather(self.delivery_tag):
            self._state = "ACK"
            return
        try:
            super().ack_log_error(logger, errors, multiple)
        except redis.exceptions.RedisError as exc:
            self._owed("acknowledgement", exc)

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> None:
        """Put it back or forget it; a server that refuses is told later, by the keeper."""
        try:
            super().reject_log_error(logger, errors, requeue)
        except redis.exceptions.RedisError as exc:
            self._owed("rejection", exc)

    def _owed(self, what: str, exc: Exception) -> None:
        """Say, in one line, that the keeper does it later: the custody has it already."""
        if self.channel.custody.trouble.note("restore", exc) is None:
            logger.warning("Redis did not take the %s of a message, and is asked again: %s", what, exc)
