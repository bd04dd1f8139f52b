"""One attempt's error as data: what a decision, a history entry, a dead letter and an alert are made of.

Owns the types only; `describe.py` makes a `Failure` of an exception. It must not know Celery.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from celery_guardrails.printable import one_line

__all__ = ["Attempt", "Category", "Cause", "Failure", "History"]

_SUMMARY = 300


class Category(str, Enum):
    """The kind of a failure; `transient` kinds are worth another attempt."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    RATE_LIMIT = "rate_limit"
    SERVER_ERROR = "server_error"
    LOCK = "lock"
    AUTH = "auth"
    VALIDATION = "validation"
    NOT_FOUND = "not_found"
    RESOURCE = "resource"
    BUG = "bug"
    WORKER_LOST = "worker_lost"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Cause:
    """The transient error from which an error of unknown kind was raised; its fields are those of `Failure`."""

    error: str
    mro: tuple[str, ...] = ()
    exception: BaseException | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one attempt failed.

    `error` is the exception's dotted type name (builtins without their module), `message` at most 2,000 characters.
    `mro` holds the dotted names of its classes, nearest first. `transient` is the taxonomy's verdict (`None`: unknown),
    `retry_after` the seconds that a server asked for. `cause` is the error that `category` and `transient` come from,
    where that is another error than this one. `exception` stays in the process: predicates and users' callables get
    it; it is never stored.
    """

    error: str
    message: str
    category: Category
    transient: bool | None
    fingerprint: str
    traceback: str = ""
    retry_after: float | None = None
    mro: tuple[str, ...] = ()
    exception: BaseException | None = field(default=None, compare=False, repr=False)
    cause: Cause | None = None

    @property
    def named(self) -> str:
        """The error's name as people read it, and its cause's name where the cause decides the category."""
        return self.error if self.cause is None else f"{self.error}, caused by {self.cause.error}"

    @property
    def summary(self) -> str:
        """The error's name and its message as a log shows them: on one line, at most 300 characters of the message."""
        message = one_line(self.message)
        if len(message) > _SUMMARY:
            message = f"{message[:_SUMMARY]}..."
        error = f"{self.error}: {message}" if message else self.error
        return error if self.cause is None else f"{error}, caused by {self.cause.error}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One failed attempt, as history keeps it.

    `delay` is the wait before the next attempt in seconds; `None`: there was no next attempt.
    """

    number: int
    started_at: datetime | None
    ended_at: datetime
    error: str
    message: str
    category: Category
    fingerprint: str
    worker: str
    delay: float | None = None
    generation: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """What happened before this failure.

    `attempt` is the number of the attempt that has just failed (the first is 1). The deadline counts from
    `published_at`; `since` says in words what happened at that instant. `attempts` are the earlier failed attempts,
    oldest first; some may have been dropped.
    """

    attempt: int
    published_at: datetime
    attempts: tuple[Attempt, ...] = ()
    since: str = "the first publish"
