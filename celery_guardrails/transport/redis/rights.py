"""The rights that guardrails needs on Redis: the keys and commands that it uses beside Celery's own, and missing ones.

    needs(...)  what an administrator has to allow          missing(...)  what this user may not do

Owns the list. Rights are tried without any effect: Redis checks them when a command is queued in a `MULTI`, and the
transaction is then dropped. A server without access control (before Redis 6) refuses no command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["COMMANDS", "KEYS", "OPTIONAL", "Missing", "Rights", "missing", "needs"]

KEYS = ("guardrails.quarantine", "guardrails.waiting", "guardrails.waiting.messages", "guardrails.never")
"""Our own keys, without the application's prefix; `guardrails.never` never exists: consumers block on it."""

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("EVALSHA", "0" * 40, "1", "KEY"),
    ("EVAL", "return 1", "1", "KEY"),
    ("BLMOVE", "KEY", "KEY", "RIGHT", "RIGHT", "0.01"),
    ("LPUSH", "KEY", ""),
    ("RPUSH", "KEY", ""),
    ("LPUSHX", "KEY", ""),
    ("RPOP", "KEY"),
    ("LLEN", "KEY"),
    ("HSET", "KEY", "a", ""),
    ("HSETNX", "KEY", "a", ""),
    ("HGET", "KEY", "a"),
    ("HMGET", "KEY", "a"),
    ("HDEL", "KEY", "a"),
    ("HLEN", "KEY"),
    ("HEXISTS", "KEY", "a"),
    ("HSCAN", "KEY", "0"),
    ("ZADD", "KEY", "0", "a"),
    ("ZREM", "KEY", "a"),
    ("ZSCORE", "KEY", "a"),
    ("ZRANK", "KEY", "a"),
    ("ZCARD", "KEY"),
    ("ZCOUNT", "KEY", "0", "0"),
    ("ZRANGE", "KEY", "0", "0"),
    ("ZRANGEBYSCORE", "KEY", "0", "0"),
    ("ZSCAN", "KEY", "0"),
    ("DEL", "KEY"),
    ("TIME",),
    ("PING",),
)
"""A form of each command that we use, in scripts or beside them; `KEY` stands for a key."""

OPTIONAL = ("EXPIRE",)
"""Commands that we use where the user has the right: figures that nobody reads go away by themselves."""

_COMMAND = re.compile(r"run the '([^']+)' command")


@dataclass(frozen=True, slots=True)
class Rights:
    """Rights of a Redis user.

    Attributes:
        keys: patterns of keys, prefix included.
        commands: in lower case.
    """

    keys: tuple[str, ...]
    commands: tuple[str, ...]

    def command(self, user: str) -> str:
        """The line that an administrator types (or writes into the ACL file, without its first word)."""
        words = [*(f"~{key}" for key in self.keys), *(f"+{name}" for name in self.commands)]
        return f"ACL SETUSER {user} {' '.join(words)}"


@dataclass(frozen=True, slots=True)
class Missing:
    """The rights that a user lacks.

    Attributes:
        user: the user's name.
        rights: the rights that it lacks.
    """

    user: str
    rights: Rights

    def __str__(self) -> str:
        keys, commands = ", ".join(self.rights.keys), ", ".join(self.rights.commands)
        words = [f"touch the keys {keys}" if keys else "", f"run {commands}" if commands else ""]
        return f"the Redis user {self.user} may not {' nor '.join(filter(None, words))}"

    @property
    def fix(self) -> str:
        """What an administrator types."""
        return f"as an administrator: {self.rights.command(self.user)}"


def needs(prefix: str, dead_letters: Iterable[str]) -> Rights:
    """The rights that guardrails needs in addition to Celery's.

    Args:
        prefix: the application's `global_keyprefix`.
        dead_letters: the names of the dead-letter queues; the marks of suspects begin with them.
    """
    keys = (f"{prefix}guardrails.*", *(f"{prefix}{name}*" for name in dead_letters))
    return Rights(keys, tuple(name.lower() for name in (*(form[0] for form in COMMANDS), *OPTIONAL)))


def missing(channel: Any, client: Any, dead_letters: Sequence[str], queues: Iterable[str] = ()) -> Missing | None:
    """The rights that guardrails needs and this user lacks; `None`: the user lacks none.

    Args:
        channel: a Redis channel of kombu, for its keys.
        client: a `redis.Redis` without a prefix.
        dead_letters: the names of the dead-letter queues.
        queues: the names of the queues that are consumed: our scripts use their keys.

    Raises:
        redis.exceptions.RedisError: the server cannot be reached, or refuses for another reason.
    """
    prefix = str(channel.global_keyprefix)
    patterns = {prefix + name: f"{prefix}guardrails.*" for name in KEYS}
    patterns |= {prefix + name: f"{prefix}{name}*" for name in (*dead_letters, *queues)}
    patterns |= {prefix + name: prefix + name for name in (channel.unacked_key, channel.unacked_index_key)}
    patterns |= {f"{prefix}{name}.started.a": f"{prefix}{name}*" for name in dead_letters}
    never = prefix + "guardrails.never"
    tries = [tuple(never if word == "KEY" else word for word in form) for form in COMMANDS]
    keyed = [("RPOP", key) for key in patterns]
    refused = _try(client, [*tries, *keyed])
    names = {found[1].split("|")[0] for _, text in refused if (found := _COMMAND.search(text))}
    keys = {patterns[form[1]] for form, text in refused if form in keyed and not _COMMAND.search(text)}
    if not names and not keys:
        return None
    rights = Rights(tuple(sorted(keys)), tuple(sorted(names)))
    return Missing(_user(channel, client), rights)


def _try(client: Any, forms: Sequence[tuple[str, ...]]) -> list[tuple[tuple[str, ...], str]]:
    """The forms that this user may not send, with the server's words; the server carries out none of the forms."""
    from redis import Redis
    from redis.exceptions import NoPermissionError, ResponseError

    alone = Redis(connection_pool=client.connection_pool, single_connection_client=True)
    connection: Any = alone.connection
    try:
        connection.send_command("MULTI")
        connection.read_response()
        refused = []
        for form in forms:
            connection.send_command(*form)
            try:
                connection.read_response()
            except NoPermissionError as exc:
                refused.append((form, str(exc)))
            except ResponseError:
                continue  # for example a command that this server does not know
        return refused
    finally:
        connection.disconnect()  # this drops the transaction
        alone.close()


def _user(channel: Any, client: Any) -> str:
    from redis.exceptions import ResponseError

    try:
        name = client.execute_command("ACL WHOAMI")
    except ResponseError:  # the user may not ask even that: take the name in the URL
        return str(channel.connection.client.userid or "default")
    return name.decode() if isinstance(name, bytes) else str(name)
