"""Unacknowledged messages in Redis whose lease no process has renewed for a while.

A process with guardrails renews the lease of each message that it has taken, several times within the visibility
timeout; a plain worker of Celery never does. So only the age of a silent message is known here: ask the workers whether
one of them still has it. Reads only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from celery_guardrails.transport.redis.record import Unreadable, read_unacked
from celery_guardrails.transport.redis.restore import unacked_keys

__all__ = ["Silent", "SilentMessage", "silent"]

_ROUND, _THIRD = 30.0, 3
"""A lease is renewed every third of the visibility timeout, and at least every 30 s (`keeper.py`)."""
_MISSED_ROUNDS = 2.5
_MOST = 500


@dataclass(frozen=True, slots=True)
class SilentMessage:
    """One silent message: its task and task id, both empty if they cannot be read, and how long it has been silent."""

    task: str
    task_id: str
    silent: timedelta


@dataclass(frozen=True, slots=True)
class Silent:
    """All silent messages: how many, the 500 that are silent longest, and after how long Redis gives them back."""

    count: int
    messages: tuple[SilentMessage, ...]
    timeout: timedelta


def silent(channel: Any, client: Any) -> Silent:
    """The messages whose lease was not renewed for two and a half rounds, the longest silent first.

    Args:
        channel: a Redis channel of kombu, for its keys and its visibility timeout.
        client: a `redis.Redis` without a prefix.

    Raises:
        redis.exceptions.RedisError: the server cannot be reached, or refuses.
    """
    timeout = float(channel.visibility_timeout)
    seconds, micros = client.execute_command("TIME")
    now = int(seconds) + int(micros) / 1e6
    bound = now - _MISSED_ROUNDS * min(timeout / _THIRD, _ROUND)
    unacked, index = unacked_keys(channel)
    count = int(client.execute_command("ZCOUNT", index, "-inf", bound))
    tags = client.execute_command("ZRANGEBYSCORE", index, "-inf", bound, "LIMIT", 0, _MOST) if count else []
    asked = client.pipeline(transaction=False)
    for tag in tags:
        asked.execute_command("HGET", unacked, tag)
        asked.execute_command("ZSCORE", index, tag)
    answers = iter(asked.execute() if tags else ())
    found = tuple(
        SilentMessage(*_named(record), timedelta(seconds=max(0.0, now - float(score))))
        for record, score in zip(answers, answers, strict=True)
        if record and score is not None  # otherwise it has just been acknowledged
    )
    return Silent(count, found, timedelta(seconds=timeout))


def _named(record: bytes) -> tuple[str, str]:
    try:
        headers = read_unacked(record)[0].get("headers")
    except Unreadable:
        headers = None
    if not isinstance(headers, dict):
        return "", ""
    return str(headers.get("task") or ""), str(headers.get("id") or "")
