"""One attempt's error as data: what a decision, a history entry, a dead letter and an alert are made of.

Owns the types only. How an exception becomes a `Failure` is in `describe.py`; knows nothing of Celery.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from celery_guardrails.printable import one_line

__all__ = ["Attempt", "Category", "Cause", "Failure", "History"]

_TOLD = 300


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
    """The transient error that an error without a name was raised from; its fields are those of `Failure`."""

    error: str
    mro: tuple[str, ...] = ()
    exception: BaseException | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one attempt failed.

    `error` is the exception's dotted type name (builtins without their module), `message` at most 2,000
    characters, `mro` the dotted names of its classes, nearest first, `transient` what the taxonomy makes of it
    (`None`: it has no name for it), `retry_after` what a server asked for, in seconds, `cause` the error that
    `category` and `transient` come from where that is not this one. `exception` stays in the process: predicates and
    user callables see it; it is never stored.
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
        """The error as people read it, with the one that it was raised from where that decides."""
        return self.error if self.cause is None else f"{self.error}, caused by {self.cause.error}"

    @property
    def told(self) -> str:
        """The same with its message: on one line, at most 300 characters of it, as a log shows it."""
        message = one_line(self.message)
        if len(message) > _TOLD:
            message = f"{message[:_TOLD]}..."
        error = f"{self.error}: {message}" if message else self.error
        return error if self.cause is None else f"{error}, caused by {self.cause.error}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One failed attempt, as history keeps it. `delay` is the seconds waited before the next one, `None` at the end."""

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

    `attempt` is the number of the attempt that has just failed (the first is 1), `published_at` the instant from
    which the deadline counts, `since` in words what happened then, `attempts` the earlier failed ones, oldest first,
    of which some may have been dropped.
    """

    attempt: int
    published_at: datetime
    attempts: tuple[Attempt, ...] = ()
    since: str = "the first publish"
