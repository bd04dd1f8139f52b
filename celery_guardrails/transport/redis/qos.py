"""Unacknowledged messages of a channel that takes by script: kombu's bookkeeping, each change one atomic step.

Owns acknowledging, rejecting and giving back. Who gives back what a dead worker held is in `restore.py`, so kombu's
own periodic restore does nothing here.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from celery_guardrails.transport.redis.restore import give_back, unacked_keys
from celery_guardrails.transport.redis.script import ACK

__all__ = ["TakingQoS"]

logger = logging.getLogger("celery_guardrails.transport")


class TakingQoS(kombu_redis.QoS):  # type: ignore[misc]
    """The messages that a `TakingChannel` has handed on and that are not acknowledged.

    Attributes:
        was_held: whether the last one that was acknowledged still was this worker's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._retired = False
        self.was_held = False
        super().__init__(*args, **kwargs)

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message. One that was taken by script is recorded already; others are recorded as kombu does."""
        if delivery_tag == self.channel.handing_on:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def reserve(self, delivery_tag: str) -> None:
        """Count a message that was taken and is not handed on yet, so that closing the channel gives it back."""
        self._quick_append(delivery_tag, None)

    def gather(self, delivery_tag: str) -> bool:
        """Acknowledge a message without waiting for Redis, where its worker can; says whether it does.

        From then on the custody has it, and there is room for another message.
        """
        if self.channel.is_over or not self.channel.custody.gather(self.channel, delivery_tag):
            return False
        virtual.QoS.ack(self, delivery_tag)
        return True

    def ack(self, delivery_tag: str) -> None:
        """Forget a message that is done; where Redis does not hear of it, the keeper tells it later.

        Raises:
            redis.exceptions.RedisError: it does not hear of it now. A `reject` that follows takes the ack back.
        """
        try:
            self._forget(delivery_tag)
        except BaseException:
            self.channel.custody.ack_later(delivery_tag)
            raise
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put a message back at the end of its queue, or forget it: later, where Redis does not hear of it.

        Raises:
            redis.exceptions.RedisError: it does not hear of it now.
        """
        if not requeue:
            self.ack(delivery_tag)
            return
        try:
            self.restore_by_tag(delivery_tag, leftmost=True)
        except BaseException:
            self.channel.custody.return_later([delivery_tag])
            raise
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back into its queue: as the next one, or as the last (`leftmost`)."""
        give_back(self.channel, self.channel.own_client, [tag], leftmost=leftmost)

    def restore_unacked(self, client: Any = None) -> None:
        """Put everything back that does not run. What runs stays with this worker, and is acknowledged from here."""
        self._flush()
        running = self.channel.custody.running()
        others = [tag for tag in self._delivered if tag not in running]
        try:
            give_back(self.channel, self.channel.own_client, others)
        except Exception as exc:  # noqa: BLE001 whatever it was, it is tried again
            # the server is gone: the keeper does it once it is back
            logger.warning("Redis: %d messages are not put back yet: %s", len(others), exc)
            self.channel.custody.return_later(others)
        for tag in others:
            self._delivered.pop(tag, None)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """The same, once: kombu asks for it when a channel is closed, and what ran then is kept until it has run."""
        self._on_collect.cancel()
        if not self._retired:
            self._retired = True
            self.restore_unacked()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the worker's keeper does it, and does not wait for a lock that a dead worker holds."""

    def held(self) -> list[str]:
        """The tags that are not acknowledged; safe from any thread."""
        while True:
            try:
                return [tag for tag in list(self._delivered) if tag not in self._dirty]
            except RuntimeError:  # it changed while it was read
                continue

    def _forget(self, tag: str) -> None:
        self.was_held = False
        self.was_held = bool(ACK.run(self.channel.own_client, unacked_keys(self.channel), [tag]))
