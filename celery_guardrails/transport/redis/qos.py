"""Unacknowledged messages of a channel that takes by script: kombu's records, with each change in one atomic step.

Owns acknowledging, rejecting and giving back. `restore.py` gives back the messages of dead workers, so kombu's own
periodic restore does nothing here.
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
    """The messages that a `TakingChannel` has taken and that are not acknowledged.

    Attributes:
        was_held: whether this worker still held the message that was acknowledged last.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._retired = False
        self.was_held = False
        super().__init__(*args, **kwargs)

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message. Redis has a record of each message that was taken by script; kombu records the others."""
        if delivery_tag == self.channel.handing_on:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def reserve(self, delivery_tag: str) -> None:
        """Note a message that was taken and is not handed on yet, so that closing the channel gives it back."""
        self._quick_append(delivery_tag, None)

    def gather(self, delivery_tag: str) -> bool:
        """Acknowledge a message without waiting for Redis, if its worker can; returns whether it does.

        From then on the custody has the acknowledgement, and there is room for another message.
        """
        if self.channel.is_over or not self.channel.custody.gather(self.channel, delivery_tag):
            return False
        virtual.QoS.ack(self, delivery_tag)
        return True

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message. If Redis does not take that now, the keeper sends it again later.

        Raises:
            redis.exceptions.RedisError: Redis does not take it now. A later `reject` cancels the acknowledgement.
        """
        try:
            self._forget(delivery_tag)
        except BaseException:
            self.channel.custody.ack_later(delivery_tag)
            raise
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put a message back at the end of its queue, or drop it. If Redis does not take that now, the keeper does it.

        Raises:
            redis.exceptions.RedisError: Redis does not take it now.
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
        """Put a message back into its queue, as the next message or as the last (`leftmost`)."""
        give_back(self.channel, self.channel.own_client, [tag], leftmost=leftmost)

    def restore_unacked(self, client: Any = None) -> None:
        """Put the messages back whose tasks do not run. The others stay with this worker, which acknowledges them."""
        self._flush()
        running = self.channel.custody.running()
        others = [tag for tag in self._delivered if tag not in running]
        try:
            give_back(self.channel, self.channel.own_client, others)
        except Exception as exc:  # noqa: BLE001 after any error the keeper tries again, once the server is back
            logger.warning("Redis: %d messages are not put back yet: %s", len(others), exc)
            self.channel.custody.return_later(others)
        for tag in others:
            self._delivered.pop(tag, None)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """As `restore_unacked`, but only once: a second close must not give back the messages of running tasks."""
        self._on_collect.cancel()
        if not self._retired:
            self._retired = True
            self.restore_unacked()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the worker's keeper does it, and needs no lock, which a dead worker could still hold."""

    def held(self) -> list[str]:
        """The tags that are not acknowledged; safe from any thread."""
        while True:
            try:
                return [tag for tag in list(self._delivered) if tag not in self._dirty]
            except RuntimeError:  # the messages changed while they were read
                continue

    def _forget(self, tag: str) -> None:
        self.was_held = False
        self.was_held = bool(ACK.run(self.channel.own_client, unacked_keys(self.channel), [tag]))
