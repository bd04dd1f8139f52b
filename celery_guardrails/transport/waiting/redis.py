"""Waiting on Redis: complete messages in a sorted set, moved to their queues by one script when they are due.

Owns putting, releasing and listing. Entries belong to no process: any worker or guardian releases the messages that are
due. A message is always in exactly one place, here or in its queue.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery import Celery
from kombu import Queue
from kombu.utils.json import dumps, loads
from redis.exceptions import ResponseError

from celery_guardrails.clock import from_epoch
from celery_guardrails.errors import PublishError
from celery_guardrails.transport.publisher import Envelope, Publisher
from celery_guardrails.transport.redis.connection import Line
from celery_guardrails.transport.waiting.protocol import WaitingTask
from celery_guardrails.transport.waiting.redis_script import DROP, FALLEN_DUE, PUT, RELEASE

__all__ = ["RedisWaiting"]

logger = logging.getLogger("celery_guardrails.transport")

_WAITING, _MESSAGES = "guardrails.waiting", "guardrails.waiting.messages"
_BATCH = 100
"""Entries for each script: so the script holds up the server for well under a millisecond."""
_LONGEST_ANSWER = 4.0
_PAGE_ENDS = 1000
# how Celery's own producer marks a message that has to survive a restart of the broker
_PERSISTENT = 2


@dataclass(frozen=True, slots=True)
class _Entry:
    """One waiting message as Redis keeps it: the list to which it goes, its queue, the message's text."""

    list: str
    queue: str
    text: str

    def kept(self) -> str:
        return f"{dumps([self.list, self.queue])}\n{self.text}"

    @classmethod
    def read(cls, kept: bytes) -> _Entry:
        head, _, text = kept.decode().partition("\n")
        name, queue = loads(head)
        return cls(name, queue, text)


class RedisWaiting:
    """Keeps messages in Redis until they are due.

    Redis's own clock decides, both when a message is stored and when it is released: the clocks of other machines do
    not matter.

    Args:
        app: the application whose broker is used.
        publisher: publishes the messages that cannot wait here: broadcasts, which have no queue in Redis.
    """

    name = "a sorted set in Redis"
    outside = True
    listed = True
    released = True

    def __init__(self, app: Celery, publisher: Publisher) -> None:
        self._publisher = publisher
        self._seconds = publisher.seconds
        self._line = Line(app, min(self._seconds, _LONGEST_ANSWER))
        self._page_ends: dict[str, float] = {}

    def publish(self, envelope: Envelope, declare: Sequence[Queue], delay: float) -> None:
        """Keep a message, and return when Redis has it.

        Raises:
            PublishError: Redis did not take the message in time, or no queue is bound to its address (`.refused`), or
                Redis did not confirm a message that is `once` (`.unsure`).
        """
        token, sent = uuid.uuid4().hex[:16], False

        def put(channel: Any, client: Any) -> bool:
            nonlocal sent
            if sent and envelope.once:  # the first entry may be released already: this one would be a second message
                raise PublishError(envelope.routing_key, "its confirmation got lost", unsure=True)
            for queue in declare:
                queue(channel).declare()
            if envelope.exchange and channel.typeof(envelope.exchange).type == "fanout":
                return False
            entries = _entries_of(channel, envelope)
            pairs: list[str] = []
            for number, entry in enumerate(entries):
                pairs += [_named(f"{token}{number or ''}", envelope), entry.kept()]
            if envelope.once:
                client.ping()  # a broken connection must show before the message is sent
            sent = True
            try:
                PUT.run(client, _keys(channel), [delay, *pairs])
            except ResponseError:
                sent = False  # Redis has answered that it did not store the message
                raise
            return True

        try:
            kept = self._line.until(put, self._seconds, envelope.routing_key)
        except PublishError as lost:
            if sent and envelope.once and not lost.refused:
                raise PublishError(lost.queue, lost.reason, unsure=True) from lost
            raise
        if not kept:
            self._publisher.publish(envelope, declare)

    def release_due(self, now: datetime, most: int = 1000) -> int:
        """Move messages that are due by Redis's clock (`now` is not asked) to their queues; returns how many."""
        return self._line.until(lambda channel, client: _release(channel, client, most), 0.0, _WAITING)

    def count(self) -> int:
        """How many messages wait."""
        return self._line.until(lambda channel, client: int(client.zcard(_keys(channel)[0])), 0.0, _WAITING, reads=True)

    def entries(self, limit: int, after: str | None = None) -> list[WaitingTask]:
        """Up to `limit` waiting messages behind the entry `after`, the next due first."""

        def read(channel: Any, client: Any) -> list[WaitingTask]:
            start = 0 if after is None else self._place_after(client, _keys(channel)[0], after)
            found = client.zrange(_keys(channel)[0], start, start + limit - 1, withscores=True)
            if found:
                if len(self._page_ends) >= _PAGE_ENDS:
                    self._page_ends.clear()
                self._page_ends[found[-1][0].decode()] = found[-1][1]
            return _tasks(channel, client, found)

        return self._line.until(read, self._seconds, _WAITING, reads=True)

    def find(self, id: str) -> list[WaitingTask]:
        """The waiting messages whose entry id or task id starts with `id`, the next due first."""
        exact = "".join(f"\\{letter}" if letter in "*?[]^-\\" else letter for letter in id)

        def read(channel: Any, client: Any) -> list[WaitingTask]:
            found: dict[bytes, float] = {}
            for pattern in (f"{exact}*", f"*.{exact}*"):
                found.update(client.zscan_iter(_keys(channel)[0], match=pattern, count=1000))
            tasks = _tasks(channel, client, sorted(found.items(), key=lambda pair: pair[1]))
            return [task for task in tasks if task.id.startswith(id) or task.task_id.startswith(id)]

        return self._line.until(read, self._seconds, _WAITING, reads=True)

    def run_now(self, ids: Sequence[str]) -> int:
        """Move these entries to their queues at once, without the `eta` that would hold them up in a worker."""

        def run(channel: Any, client: Any) -> int:
            moved = 0
            for id, entry in _kept(channel, client, ids):
                message = loads(entry.text)
                message["headers"]["eta"] = None
                keys = [*_keys(channel), channel.global_keyprefix + entry.list]
                moved += RELEASE.run(client, keys, ["0", id, 1, dumps(message)])
            return moved

        return self._line.until(run, self._seconds, _WAITING) if ids else 0

    def remove(self, ids: Sequence[str]) -> int:
        """Remove these entries; returns how many still waited."""
        if not ids:
            return 0
        return self._line.until(
            lambda channel, client: int(DROP.run(client, _keys(channel), list(ids))), self._seconds, _WAITING
        )

    def close(self) -> None:
        """Close the connection of this process."""
        self._line.close()

    def _place_after(self, client: Any, key: str, after: str) -> int:
        rank = client.zrank(key, after)
        if rank is not None:
            return int(rank) + 1
        # the entry was released meanwhile: go on where it was
        was = self._page_ends.get(after)
        return 0 if was is None else int(client.zcount(key, "-inf", f"({was!r}"))


def _keys(channel: Any) -> list[str]:
    return [f"{channel.global_keyprefix}{_WAITING}", f"{channel.global_keyprefix}{_MESSAGES}"]


def _entries_of(channel: Any, envelope: Envelope) -> list[_Entry]:
    """The message as kombu would push it now, once for each queue that would get it."""
    queues = [queue for queue in channel._lookup(envelope.exchange, envelope.routing_key) if queue]
    if not queues:
        where = f"{envelope.exchange!r} with {envelope.routing_key!r}"
        raise PublishError(envelope.routing_key, f"no queue is bound to {where}", refused=True)
    entries = []
    for queue in queues:  # each with a delivery tag of its own: kombu would give all of them the same tag
        message = channel.prepare_message(
            envelope.body,
            priority=envelope.priority or 0,
            content_type=envelope.content_type or "application/data",
            content_encoding=envelope.content_encoding or "binary",
            headers=dict(envelope.headers),
            properties={"delivery_mode": _PERSISTENT, **envelope.properties},
        )
        channel._inplace_augment_message(message, envelope.exchange, envelope.routing_key)
        name = channel._q_for_pri(queue, channel._get_message_priority(message, reverse=False))
        entries.append(_Entry(name, queue, dumps(message)))
    return entries


def _release(channel: Any, client: Any, most: int) -> int:
    moved = seen = 0
    while seen < most:
        batch = min(_BATCH, most - seen)
        found = FALLEN_DUE.run(client, _keys(channel), [batch])
        if found:
            moved += _move(channel, client, list(zip(found[::2], found[1::2], strict=True)))
        seen += len(found) // 2
        if len(found) // 2 < batch:
            break
    return moved


def _named(token: str, envelope: Envelope) -> str:
    """The name of an entry; half a surrogate pair in a task id is escaped: JSON allows it, and UTF-8 does not."""
    task_id = str(envelope.headers.get("id") or "")
    return f"{token}.{task_id.encode('utf-8', 'backslashreplace').decode()}"


def _move(channel: Any, client: Any, due: Sequence[tuple[bytes, bytes]]) -> int:
    places: dict[str, int] = {}
    arguments: list[Any] = ["1"]
    for id, head in due:
        try:
            name = channel.global_keyprefix + loads(head.decode())[0]
            place = places.setdefault(name, len(places) + 1)
        except (ValueError, TypeError, LookupError):
            logger.warning("the waiting entry %r cannot be read, and is tried again in a minute", id)
            place = 0
        arguments += [id, place, ""]
    return int(RELEASE.run(client, [*_keys(channel), *places], arguments))


def _kept(channel: Any, client: Any, ids: Sequence[Any]) -> list[tuple[str, _Entry]]:
    found = []
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        for id, kept in zip(batch, client.hmget(_keys(channel)[1], batch), strict=True):
            name = id.decode() if isinstance(id, bytes) else str(id)
            try:
                if kept is not None:
                    found.append((name, _Entry.read(kept)))
            except (ValueError, TypeError):
                logger.warning("the waiting entry %s cannot be read", name)
    return found


def _tasks(channel: Any, client: Any, found: Sequence[tuple[bytes, float]]) -> list[WaitingTask]:
    due = {id.decode(): from_epoch(score) for id, score in found}
    return [_task(channel, id, entry, due[id]) for id, entry in _kept(channel, client, list(due))]


def _task(channel: Any, id: str, entry: _Entry, due_at: datetime) -> WaitingTask:
    message = loads(entry.text)
    headers, properties = message["headers"], dict(message["properties"])
    delivery = properties.pop("delivery_info", {})
    body = channel.decode_body(message["body"], properties.pop("body_encoding", None))
    priority = properties.pop("priority", None)
    for ours in ("delivery_tag", "delivery_mode"):
        properties.pop(ours, None)
    envelope = Envelope(
        body=body if isinstance(body, bytes) else str(body).encode(),
        routing_key=str(delivery.get("routing_key") or ""),
        exchange=str(delivery.get("exchange") or ""),
        content_type=message.get("content-type"),
        content_encoding=message.get("content-encoding"),
        headers=headers,
        properties=properties,
        priority=priority,
    )
    task, task_id = str(headers.get("task") or ""), str(headers.get("id") or "")
    return WaitingTask(id, task, task_id, entry.queue, due_at, int(headers.get("retries") or 0) + 1, envelope)
