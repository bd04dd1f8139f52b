"""Acknowledgements that nobody waits for: those of one turn of the event loop, sent to Redis as one call.

    a task is over ── gathered, owed to Redis ──> the turn's end: sent ──> answered: no longer owed
                                                       └── failed: the keeper sends it again

Owns the connections for that, and reading the answers. No promise depends on these connections: the custody keeps each
acknowledgement until Redis has answered. If a connection loses one, the keeper sends it again, and Redis keeps the
message for this worker until then. No acknowledgement waits for a later turn: a worker that is killed has at most as
many unsent as if it had sent each by itself.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_guardrails.transport.redis.held import Custody
from celery_guardrails.transport.redis.restore import unacked_keys
from celery_guardrails.transport.redis.script import ACK

__all__ = ["Gathering"]

logger = logging.getLogger("celery_guardrails.transport")

_ANSWER = 2.0
"""Seconds for connecting, and for an answer that is waited for; fewer if the application sets fewer."""


class Gathering:
    """The acknowledgements of a worker's channels, while its event loop runs. For the loop's thread only.

    Args:
        custody: keeps what Redis is owed.
    """

    def __init__(self, custody: Custody) -> None:
        self._custody = custody
        self._is_open = False
        self._lines: dict[Any, _Line] = {}

    def add(self, channel: Any, tag: str) -> bool:
        """Acknowledge a message at the end of this turn; the custody keeps it until Redis has answered.

        Args:
            channel: the channel that has taken the message.
            tag: the message's tag.

        Returns:
            Whether it is gathered; `False` if no event loop runs, because no turn would end.
        """
        if not self._is_open:
            return False
        self._custody.ack_later(tag)
        line = self._lines.get(channel)
        if line is None:
            line = self._lines[channel] = _Line(channel, self._custody)
        line.gathered.append(tag)
        return True

    def turn(self) -> None:
        """Send the gathered acknowledgements, and read the answers that have arrived. Never raises, never waits."""
        for line in self._lines.values():
            line.turn()

    def open(self) -> None:
        """Begin to gather: the event loop runs from now on."""
        self._is_open = True

    def close(self) -> None:
        """Stop gathering, because the loop ends or its connection is lost: send the rest, wait 2 s for each answer."""
        self._is_open = False
        while self._lines:
            _, line = self._lines.popitem()
            line.close()


class _Line:
    """The acknowledgements of one channel, on a connection of their own, so that the answers come in order."""

    def __init__(self, channel: Any, custody: Custody) -> None:
        self.gathered: list[str] = []
        self._keys = unacked_keys(channel)
        self._pool = channel.own_client.connection_pool
        self._custody = custody
        self._unanswered: deque[list[str]] = deque()
        self._connection: Any = None
        self._has_script = True
        self._is_again = False

    def turn(self) -> None:
        if self._unanswered:
            self._do(self._read)
        if self.gathered:
            self._do(self._send)

    def close(self) -> None:
        for _ in range(2):  # once more if the server did not know the script
            if self.gathered:
                self._do(self._send)
            self._do(self._read_all)
        if self._connection is not None:
            self._connection.disconnect()

    def _do(self, act: Callable[[], None]) -> None:
        """Send or read. After a lost connection send once more: the connection may only have been idle too long."""
        try:
            act()
        except Exception as exc:  # noqa: BLE001 after any error the keeper sends them
            if self._is_again or not isinstance(exc, redis.exceptions.ConnectionError):
                self._leave(exc)
                return
            self._is_again = True
            self._drop()
            self._do(self._send)

    def _send(self) -> None:
        script = ("EVALSHA", ACK.sha) if self._has_script else ("EVAL", ACK.text)
        if self._connection is None:
            self._connection = self._connect()
        packed = self._connection.pack_command(*script, len(self._keys), *self._keys, *self.gathered)
        self._connection.send_packed_command(packed, check_health=False)  # a check would read our pending answers
        self._unanswered.append(self.gathered)
        self.gathered = []

    def _read(self) -> None:
        while self._unanswered and self._connection.can_read(0):
            self._read_one()

    def _read_all(self) -> None:
        while self._unanswered:
            self._read_one()

    def _read_one(self) -> None:
        try:
            self._connection.read_response()
        except redis.exceptions.NoScriptError:
            self._has_script = False
            self.gathered[:0] = self._unanswered.popleft()
            return
        self._has_script, self._is_again = True, False
        self._custody.paid(self._unanswered.popleft())

    def _leave(self, exc: Exception) -> None:
        """Leave all unanswered acknowledgements to the keeper, and log it in one line."""
        self._drop()
        tags, self.gathered, self._is_again = self.gathered, [], False
        if self._custody.trouble.note("restore", exc) is None:
            words = "Redis did not take the acknowledgement of %d messages, and is asked again: %s"
            logger.warning(words, len(tags), exc)

    def _drop(self) -> None:
        """Give the connection up, and gather its unanswered acknowledgements again."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None  # a new connection looks up the server's address again
        self.gathered[:0] = [tag for tags in self._unanswered for tag in tags]
        self._unanswered.clear()

    def _connect(self) -> Any:
        options = dict(self._pool.connection_kwargs)
        for name in ("socket_timeout", "socket_connect_timeout"):
            options[name] = min(_ANSWER, options.get(name) or _ANSWER)
        connection = self._pool.connection_class(**options)
        connection.retry = Retry(NoBackoff(), 0)
        return connection
