"""A Redis channel that loses no message: the script that takes a message also records it, in one step.

    take (script) ── something ──> hand on ──> take ...
        └── nothing ──> peek: wait until the likeliest list has something, at most 0.1 s ──> take ...

kombu pops a message and records it afterwards: if the process dies in between, the message is lost. A peek is a
`BLMOVE` of a list onto itself, which changes nothing. A command that the server refuses for now (because it is full,
say) is sent again a second later; Celery alone would end the worker. Owns waiting and handing on; kombu owns the rest.
"""

from __future__ import annotations

import itertools
import logging
import uuid
from collections import deque
from collections.abc import Callable
from json import JSONDecoder
from queue import Empty
from time import monotonic
from typing import Any

import redis
from kombu.asynchronous import get_event_loop
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import object_hook
from kombu.utils.scheduling import priority_cycle

from celery_guardrails.transport.redis.binding import BindingChannel
from celery_guardrails.transport.redis.message import TakenMessage
from celery_guardrails.transport.redis.portion import Portion
from celery_guardrails.transport.redis.qos import TakingQoS
from celery_guardrails.transport.redis.quarantine import pass_on, set_aside
from celery_guardrails.transport.redis.record import Unreadable
from celery_guardrails.transport.redis.restore import quarantine_key, unacked_keys
from celery_guardrails.transport.redis.script import LEASE, TAKE
from celery_guardrails.transport.redis.trouble import PAUSE, passing

__all__ = ["TakingChannel"]

logger = logging.getLogger("celery_guardrails.transport")

_DECODER = JSONDecoder(object_hook=object_hook)
"""Decodes as kombu's `loads` does, which makes a new decoder for each message."""
_PEEK = 0.1
"""Seconds that a peek lasts at most: for so long a message in a list that is not peeked at may wait."""


class TakingChannel(BindingChannel):
    """A channel that takes by script. Mix it in before the transport's own channel, and set `custody`.

    Attributes:
        custody: what the channel's worker holds.
        handing_on: the tag of the message that is being handed to its consumer; `None` outside of that.
        handing_from: the queue that this message was taken from.
    """

    Message = TakenMessage
    QoS = TakingQoS
    handing_on: str | None = None
    handing_from: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._asked: str | None = None
        self._sent: list[str] = []
        self._found_nothing = self._script_missing = False
        self._undelivered: deque[tuple[str, str, bytes]] = deque()
        self._prefix, self._numbers = f"{uuid.uuid4().hex}-", itertools.count()
        self._likeliest: tuple[str, int] | None = None
        self._unkept: set[str] = set()
        self._lists: dict[str, list[str]] = {}
        self._order: list[str] = []
        self._pause: tuple[Any, ...] | None = None
        self._own: Any = None
        self._again_at = 0.0
        super().__init__(*args, **kwargs)
        self._own = self.own_client
        self._portion = Portion(self, self.custody.enough)
        self.custody.add(self)

    @property
    def is_over(self) -> bool:
        """Whether the channel is closed or given up: then it holds only the messages of tasks that still run."""
        return bool(self._closing or self.connection is None)

    @property
    def own_client(self) -> Any:
        """A client that puts no prefix before keys (kombu's would prefix a script's first key only)."""
        if self._own is not None and self.is_over:
            return self._own  # only tasks that still run are acknowledged with it
        pool = self.pool
        if self._own is None or self._own.connection_pool is not pool:
            self._own = redis.Redis(connection_pool=pool)
        return self._own

    def whole(self, key: str) -> str:
        """The whole key, with the application's prefix."""
        return str(self.global_keyprefix) + key

    def held(self) -> list[str]:
        """The tags that this channel has taken and not acknowledged; safe from any thread."""
        qos = self._qos
        return qos.held() if isinstance(qos, TakingQoS) else []

    def close(self) -> None:
        """Close, and give back the messages whose tasks do not run, even if kombu's own close fails."""
        self._closing = True
        try:
            super().close()
        finally:
            self.retire()
            if self._own is not None and not self.held():
                self._own.connection_pool.disconnect()  # giving back has opened a connection again

    def retire(self) -> None:
        """Stop taking, and give back the messages whose tasks do not run. The others can still be acknowledged."""
        self._closing = True
        if isinstance(self._qos, TakingQoS):
            self._qos.restore_unacked_once()

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any) -> Any:
        """Start a consumer. While a consumer never acknowledges, the whole channel takes in kombu's own way.

        Celery starts such a consumer on the channel of the tasks to look for other workers, before it consumes tasks.
        """
        if no_ack and queue not in self._fanout_queues:
            self._unkept.add(consumer_tag)
        return super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)

    def _basic_cancel(self, consumer_tag: str) -> Any:
        self._unkept.discard(consumer_tag)
        return super()._basic_cancel(consumer_tag)

    def _brpop_start(self, timeout: float | None = None) -> None:
        self._forget_command()
        if monotonic() < self._again_at or (not self._undelivered and self._portion.waits()):
            return  # no command is sent: the event loop waits for its timers
        if self._unkept or not self.ack_emulation:  # without acknowledgements there is nothing to record
            if timeout is None:
                super()._brpop_start()
            else:
                super()._brpop_start(timeout)
            return
        queues = list(self._queue_cycle.consume(len(self.active_queues)))
        if not queues:
            return
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        try:
            self._ask(self._in_poll, queues)
        except self.ResponseError as exc:  # redis-py first sends a ping on an idle connection, and may get this answer
            self._in_poll, asked, self._asked = None, self._asked, None
            self._handle_error(str(asked), exc)

    def _ask(self, connection: Any, queues: list[str]) -> None:
        if self._undelivered:
            self._asked = "PING"
            connection.send_command("PING")
        elif self._found_nothing:
            self._asked = "BLMOVE"
            connection.send_command(*self._peek(queues))
        else:
            self._send_take(connection, queues)

    def _send_take(self, connection: Any, queues: list[str]) -> None:
        most = self._portion.size()
        first = next(self._numbers)
        self._numbers = itertools.count(first + most)
        self._sent = [f"{self._prefix}{number}" for number in range(first, first + most)]
        self._order = queues
        turns = 0 if isinstance(self._queue_cycle, priority_cycle) else 1
        lists = [self._lists_of(queue) for queue in queues]
        keys = [
            *unacked_keys(self), quarantine_key(self),
            *(each[place] for place in range(len(self.priority_steps)) for each in lists),
        ]  # fmt: skip
        name, script = ("EVAL", TAKE.text) if self._script_missing else ("EVALSHA", TAKE.sha)
        self._asked = "TAKE"
        connection.send_command(name, script, len(keys), *keys, most, turns, self._prefix, first, *queues)

    def _lists_of(self, queue: str) -> list[str]:
        found = self._lists.get(queue)
        if found is None:
            found = [self.whole(self._q_for_pri(queue, step)) for step in self.priority_steps]
            self._lists[queue] = found
        return found

    def _peek(self, queues: list[str]) -> tuple[Any, ...]:
        if self._pause is not None:
            return self._pause
        queue, place = self._likeliest or (queues[0], 0)
        if queue not in queues:
            queue, place = queues[0], 0
        key = self._lists_of(queue)[place]
        return ("BLMOVE", key, key, "RIGHT", "RIGHT", _PEEK)

    def _brpop_read(self, **options: Any) -> Any:
        asked = self._asked
        if asked is None:
            return super()._brpop_read(**options)
        reply = self._reply(asked)
        self.custody.trouble.over(asked)
        if asked == "BLMOVE":
            self._found_nothing = False
        elif asked == "TAKE":
            self._take_in(reply)
        if self._closing or not self._undelivered:
            raise Empty()
        while self._undelivered:
            self._hand_on(*self._undelivered.popleft())
        return True

    def _reply(self, asked: str) -> Any:
        reply = None
        try:
            reply = self.client.parse_response(self.client.connection, asked)
        except (*self.connection_errors, self.ResponseError) as exc:
            if passing(exc) or isinstance(exc, self.ResponseError):
                self._asked = None  # Redis has answered, so it has taken nothing
            if asked != "PING" or not passing(exc):  # a refused ping does not matter: messages are handed on
                self._handle_error(asked, exc)
                raise Empty() from exc
        finally:
            self._in_poll = None
            # kombu 5.5 does not have this method
            getattr(self, "_flush_brpop_reauth", bool)()
        self._asked = None
        return reply

    def _handle_error(self, asked: str, exc: Exception) -> None:
        """Handle an error: use another command, or wait. Any other error is raised."""
        if self._change_command(asked, exc):
            return
        code = self.custody.trouble.note(asked, exc)
        if code is not None:
            self._wait_for_server(code)
            return
        if isinstance(exc, self.connection_errors):
            self.client.connection.disconnect()
        raise exc

    def _wait_for_server(self, code: str) -> None:
        self._again_at, self._found_nothing = monotonic() + PAUSE, False
        if code in {"READONLY", "UNBLOCKED", "MASTERDOWN"}:  # after a failover the primary may have another address
            self.client.connection.disconnect()
            self.pool.disconnect(inuse_connections=False)
        loop = get_event_loop()
        if loop is not None:
            loop.call_later(PAUSE, bool)  # does nothing, but wakes the loop, which then sends a command again

    def _change_command(self, asked: str, exc: Exception) -> bool:
        """Choose another command if this one is not possible, for the next round; returns whether it has."""
        if asked == "TAKE" and isinstance(exc, redis.exceptions.NoScriptError):
            self._script_missing = True
        elif asked == "BLMOVE" and self._pause is None and "unknown command" in str(exc).lower():
            # before Redis 6.2: wait for a key that is never written
            self._pause = ("BLPOP", self.whole("guardrails.never"), _PEEK)
        elif asked == "BLMOVE" and self._pause is not None and "not an integer" in str(exc).lower():
            self._pause = ("BLPOP", self.whole("guardrails.never"), 1)
        else:
            return False
        return True

    def _take_in(self, reply: list[Any]) -> None:
        late = monotonic() - self._brpop_sent_at > self.visibility_timeout / 3
        self._script_missing = False
        self._found_nothing = not reply
        strange: list[str] = []
        # reserve all of them first: if something fails afterwards, they are given back when the channel closes
        for place, tag, text in zip(reply[::3], reply[1::3], reply[2::3], strict=True):
            queue = self._order[place % len(self._order)]
            self._likeliest = (queue, place // len(self._order))
            self._queue_cycle.rotate(queue)
            if tag:
                self.qos.reserve(bytes_to_str(tag))
                self._undelivered.append((bytes_to_str(tag), queue, text))
            else:
                strange.append(bytes_to_str(text))
        self._sent = []
        if late:
            self._renew_leases()
        for tag in strange:
            self._pass_on(tag)

    def _renew_leases(self) -> None:
        """Renew the leases of an answer that came late; drop messages that Redis has given to another worker."""
        for taken in tuple(self._undelivered):
            try:
                ours = LEASE.run(self.own_client, unacked_keys(self)[1:], [taken[0]])
            except redis.exceptions.RedisError:
                self.custody.return_later([taken[0]])
                ours = False
            if not ours:
                self._undelivered.remove(taken)
                self.qos._quick_ack(taken[0])

    def _pass_on(self, tag: str) -> None:
        """Pass the quarantined item of this tag on. If that fails, the keeper does it later."""
        try:
            pass_on(self.own_client, quarantine_key(self), tag, self.custody.quarantined)
        except (*self.connection_errors, self.ResponseError) as exc:
            logger.warning("an unreadable item stays in the quarantine for now: %s", exc)

    def _hand_on(self, tag: str, queue: str, text: bytes) -> None:
        if queue not in self.connection._callbacks:  # the consumer was cancelled meanwhile
            self._now_or_later(tag, lambda: self.qos.restore_by_tag(tag))
            return
        self.handing_on, self.handing_from = tag, queue
        try:
            self.connection._deliver(self._read(text), queue)
        except Unreadable:
            if self._now_or_later(tag, lambda: set_aside(self, self.own_client, tag, queue, text)):
                self._pass_on(tag)
        finally:
            self.handing_on = None

    def _now_or_later(self, tag: str, act: Callable[[], object]) -> bool:
        """Call `act` for a message that is not handed on; if Redis fails, the keeper gives the message back later.

        Returns:
            Whether `act` succeeded.
        """
        try:
            act()
        except redis.exceptions.RedisError as exc:
            logger.warning("Redis did not take a message back, and is asked again: %s", exc)
            self.custody.return_later([tag])
            return False
        finally:
            self.qos._quick_ack(tag)
        return True

    def _read(self, text: bytes) -> Any:
        try:
            return _DECODER.decode(bytes_to_str(text))
        except Exception as exc:  # kombu's JSON also decodes dates, decimals and bytes, and each raises its own errors
            raise Unreadable(f"{type(exc).__name__}: {exc}") from exc

    def _on_connection_disconnect(self, connection: Any) -> None:
        if self._in_poll is connection:
            self._forget_command()
        super()._on_connection_disconnect(connection)

    def _forget_command(self) -> None:
        """Forget the last command, whose answer nobody will read. If it was a take, its messages will be given back."""
        if self._asked == "TAKE":
            self.custody.doubt(self._sent)
        self._asked = None
        self._sent = []
