"""A ledger in Redis: every step is one script, so one round trip.

What Redis forgets, the ledger forgets: after FLUSHALL, an eviction, or a failover to a replica that lagged behind, work
that was done may be done once more. Put it before a ledger in a database (`cached.py`) where that must not happen.
Entries end by themselves. Redis's own clock counts. On a cluster the keys of one script are in different slots, so a
cluster is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from celery_guardrails.clock import from_epoch
from celery_guardrails.errors import LedgerError
from celery_guardrails.idempotency.ledger import (
    REMEMBERED,
    Answer,
    Begun,
    Differs,
    Done,
    Entry,
    Kept,
    Key,
    Result,
    Run,
    Running,
    State,
)
from celery_guardrails.redaction.address import broker_problem, shown_address

__all__ = ["RedisLedger"]

_T = TypeVar("_T")
_PREFIX = "guardrails.ledger."
_PAGE, _MOST_PAGES = 1000, 1000
"""Keys that one step of a scan looks at, and how many steps it takes at most."""
_TIMEOUT = 2.0
"""Seconds to connect, and to wait for an answer."""

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function text(number) return string.format('%.0f', number) end
"""

_BEGIN = (
    _NOW
    + """
-- KEYS: the key's line, the owner's. ARGV: owner, work, turn, arguments, lease and memory in microseconds, environment,
-- scope, text, task, task id
local line = redis.call('HMGET', KEYS[1], 'state', 'work', 'turn', 'owner', 'until', 'arguments', 'task_id', 'done_at',
                        'kept', 'body', 'type')
if line[1] and line[1] ~= 'free' and tonumber(line[5]) > now then
  local same = line[2] == ARGV[2]
  local next = same and (tonumber(ARGV[3]) > tonumber(line[3]) or ARGV[1] == line[4])
  if line[1] == 'done' or not next then
    if not same and line[6] ~= ARGV[4] then return {'differs', line[7]} end
    if line[1] == 'done' then return {'done', line[7], line[8], line[9], line[10], line[11]} end
    return {'running', line[7], text(tonumber(line[5]) - now)}
  end
end
local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HDEL', KEYS[1], 'done_at', 'kept', 'body', 'type')
redis.call('HSET', KEYS[1], 'state', 'running', 'owner', ARGV[1], 'work', ARGV[2], 'turn', ARGV[3],
           'arguments', ARGV[4], 'until', text(now + ARGV[5]), 'environment', ARGV[7], 'scope', ARGV[8],
           'text', ARGV[9], 'task', ARGV[10], 'task_id', ARGV[11], 'began_at', text(now))
local milliseconds = text((ARGV[5] + ARGV[6]) / 1000)
redis.call('PEXPIRE', KEYS[1], milliseconds)
redis.call('SET', KEYS[2], KEYS[1], 'PX', milliseconds)
return {'begun', fence}
"""
)

_RENEW = (
    _NOW
    + """
-- KEYS: the owners' lines. ARGV: lease and memory in microseconds, the owners. Returns those that are still theirs.
local kept = {}
for number, name in ipairs(KEYS) do
  local key, owner = redis.call('GET', name), ARGV[number + 2]
  if key then
    local line = redis.call('HMGET', key, 'owner', 'state')
    if line[1] == owner and line[2] == 'running' then
      local milliseconds = text((ARGV[1] + ARGV[2]) / 1000)
      redis.call('HSET', key, 'until', text(now + ARGV[1]))
      redis.call('PEXPIRE', key, milliseconds)
      redis.call('PEXPIRE', name, milliseconds)
      kept[#kept + 1] = owner
    end
  end
end
return kept
"""
)

_FINISH = (
    _NOW
    + """
-- KEYS: the key's line. ARGV: owner, ttl in microseconds, how the result is kept, the result, its content type
local line = redis.call('HMGET', KEYS[1], 'owner', 'state', 'done_at')
if line[1] ~= ARGV[1] or line[2] == 'free' then return 0 end
redis.call('HSET', KEYS[1], 'state', 'done', 'until', text(now + ARGV[2]), 'done_at', line[3] or text(now),
           'kept', ARGV[3], 'body', ARGV[4], 'type', ARGV[5])
redis.call('PEXPIRE', KEYS[1], text(ARGV[2] / 1000))
return 1
"""
)

_FREE = (
    _NOW
    + """
-- KEYS: the owner's line. ARGV: owner, memory in microseconds
local key = redis.call('GET', KEYS[1])
if not key then return 0 end
local line = redis.call('HMGET', key, 'owner', 'state')
if line[1] ~= ARGV[1] or line[2] ~= 'running' then return 0 end
redis.call('HSET', key, 'state', 'free', 'until', text(now))
redis.call('PEXPIRE', key, text(ARGV[2] / 1000))
redis.call('DEL', KEYS[1])
return 1
"""
)

_FORGET = """
-- KEYS: the key's line. ARGV: the fence, or nothing
if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

_MEMORY = int(REMEMBERED.total_seconds() * 1_000_000)


class RedisLedger:
    """A ledger in one database of Redis.

    Args:
        url: `redis://...`, `rediss://...` or `unix://...`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = None
        self._pid = 0
        self._scripts: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """As the protocol says."""
        return _shown(self._url)

    def begin(self, key: Key, run: Run, arguments: str, lease: timedelta) -> Answer:
        """As the protocol says."""
        given = (
            run.owner, run.work, run.turn, arguments, _microseconds(lease), _MEMORY, key.environment, key.scope,
            key.text, run.task, run.task_id,
        )  # fmt: skip
        kind, *rest = self._run(_BEGIN, [_line(key), _owner(run.owner)], given)
        if kind == b"begun":
            return Begun(int(rest[0]))
        task_id = _text(rest[0])
        if kind == b"differs":
            return Differs(task_id)
        if kind == b"running":
            return Running(int(rest[1]) / 1_000_000, task_id)
        return Done(_result(*rest[2:5]), _instant(rest[1]), task_id)

    def renew(self, owners: Collection[str], lease: timedelta) -> set[str]:
        """As the protocol says."""
        known = list(owners)
        if not known:
            return set()
        kept = self._run(_RENEW, [_owner(each) for each in known], (_microseconds(lease), _MEMORY, *known))
        return {_text(each) for each in kept}

    def hold(self, owner: str, seconds: float) -> bool:
        """As the protocol says."""
        return bool(self.renew([owner], timedelta(seconds=seconds)))

    def finish(self, key: Key, owner: str, result: Result, ttl: timedelta) -> bool:
        """As the protocol says."""
        given = (owner, _microseconds(ttl), result.kept.value, result.body, result.content_type)
        return bool(self._run(_FINISH, [_line(key)], given))

    def free(self, owner: str) -> bool:
        """As the protocol says."""
        return bool(self._run(_FREE, [_owner(owner)], (owner, _MEMORY)))

    def entry(self, key: Key) -> Entry | None:
        """As the protocol says."""
        found = {_text(name): value for name, value in self._call(lambda client: client.hgetall(_line(key))).items()}
        if not found:
            return None
        return Entry(
            _text(found["scope"]), _text(found["text"]), State(_text(found["state"])), int(found["fence"]),
            _text(found["task"]), _text(found["task_id"]), _instant(found["began_at"]), _instant(found["until"]),
            _instant(found["done_at"]) if "done_at" in found else None,
            _result(found.get("kept"), found.get("body"), found.get("type")),
        )  # fmt: skip

    def find(self, environment: str, text: str, scope: str | None = None, most: int = 20) -> list[Key]:
        """As the protocol says. It scans the database, at most 1,000,000 keys of any kind.

        Raises:
            LedgerError: the database has more, and none of those that were seen has this text.
        """
        wanted = [environment.encode(), text.encode("utf-8", "surrogatepass")]
        found: list[Key] = []
        cursor = 0
        for _ in range(_MOST_PAGES):
            cursor, names = self._call(partial(_scanned, cursor=cursor))
            lines = self._call(partial(_known, names=names))
            keys = [Key(environment, _text(line[2]), text, _digest(name)) for name, line in lines if line[:2] == wanted]
            found += [key for key in keys if scope in (None, key.scope) and key not in found]
            if cursor == 0 or len(found) >= most:
                return found[:most]
        if not found:
            most_seen = (
                f"none of the {_MOST_PAGES * _PAGE:,} keys that were looked at has this text, and there are more"
            )
            raise LedgerError(self.name, f"{most_seen}: if a sender gave the key, name its task with --task")
        return found

    def forget(self, key: Key, fence: int | None = None) -> bool:
        """As the protocol says."""
        return bool(self._run(_FORGET, [_line(key)], ("" if fence is None else fence,)))

    def prune(self, most: int = 1000) -> int:
        """Nothing: entries end by themselves."""
        return 0

    def now(self) -> datetime:
        """As the protocol says."""
        seconds, microseconds = self._call(lambda client: client.time())
        return _instant(seconds * 1_000_000 + microseconds)

    def close(self) -> None:
        """As the protocol says."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _run(self, script: str, keys: list[str], arguments: tuple[Any, ...]) -> Any:
        if script not in self._scripts:
            self._call(lambda client: self._scripts.update({script: client.register_script(script)}))
        return self._call(lambda client: self._scripts[script](keys=keys, args=arguments, client=client))

    def _call(self, call: Callable[[Any], _T]) -> _T:
        try:
            from redis import Redis
            from redis.exceptions import RedisError
        except ImportError:
            raise LedgerError(self.name, "redis is missing: pip install 'celery[redis]'") from None
        try:
            if self._client is None or self._pid != os.getpid():
                # a fork leaves its parent's connections alone
                self._pid = os.getpid()
                self._client = Redis.from_url(self._url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT)
            return call(self._client)
        except (RedisError, OSError) as exc:
            raise LedgerError(self.name, f"{type(exc).__name__}: {exc}") from exc


def _shown(url: str) -> str:
    """A URL without its user, password and query, of which a password may be a part."""
    if broker_problem(url) is not None:
        return shown_address(url)
    read = urlsplit(url)
    return f"{read.scheme}://{read.netloc.rpartition('@')[2]}{read.path}"


def _line(key: Key) -> str:
    return f"{_PREFIX}key.{key.digest}"


def _digest(name: bytes) -> str:
    return name.decode().removeprefix(f"{_PREFIX}key.")


def _scanned(client: Any, *, cursor: int) -> tuple[int, list[bytes]]:
    """The lines of keys on the next page of a scan, and where the page after it begins; 0: nowhere."""
    following, names = client.scan(cursor, match=f"{_PREFIX}key.*", count=_PAGE)
    return int(following), list(names)


def _known(client: Any, *, names: list[bytes]) -> list[tuple[bytes, list[Any]]]:
    """Environment, text and scope of each line."""
    if not names:
        return []
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.hmget(name, "environment", "text", "scope")
    return list(zip(names, pipeline.execute(), strict=True))


def _owner(owner: str) -> str:
    return f"{_PREFIX}owner.{owner}"


def _microseconds(time: timedelta) -> int:
    return int(time.total_seconds() * 1_000_000)


def _instant(microseconds: Any) -> datetime:
    return from_epoch(int(microseconds) / 1_000_000)


def _text(value: Any) -> str:
    return bytes(value).decode() if isinstance(value, (bytes, bytearray)) else str(value)


def _result(kept: Any, body: Any, content_type: Any) -> Result:
    if kept is None:
        return Result()
    return Result(Kept(_text(kept)), bytes(body or b""), _text(content_type or b""))
