"""The ledger of work that must have its effect once: who does it now, and what came of it.

    begin ──> Begun:    this run does the work; it renews its lease while the body runs
          ──> Running:  another run does, or this work waits for its own next attempt
          ──> Done:     it is done; here is the result
          ──> Differs:  the key is known with other arguments
    Begun ──> finish (done) or free (it may be begun again) or hold (its next attempt is still to come)

Owns the types and the protocol that every ledger keeps. Instants are the ledger's own: whichever clock a worker has, a
lease lasts as long as the ledger says. It must not know a task, nor how a ledger is reached.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from celery_guardrails.clock import from_epoch

__all__ = [
    "REMEMBERED",
    "Answer",
    "Begun",
    "Differs",
    "Done",
    "Entry",
    "Kept",
    "Key",
    "Ledger",
    "Line",
    "Result",
    "Run",
    "Running",
    "State",
    "refusal",
]


@dataclass(frozen=True, slots=True)
class Key:
    """What names some work in a ledger.

    `digest` is what a ledger looks for: it stands for environment, scope and text together. `text` is the key as
    people know it, such as `order-4711`; for a key made of arguments it is their digest, because they may be secrets.
    """

    environment: str
    scope: str
    text: str
    digest: str


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of some work.

    `owner` names this execution, and no other. `work` is the same for every attempt of the work, and `turn` grows with
    each of them: a later attempt takes the key over from an earlier one, which has ended.
    """

    owner: str
    work: str
    turn: int
    task: str
    task_id: str


class Kept(str, Enum):
    """How a result is kept."""

    NONE = "none"
    """There was none, or nothing reads it."""
    HERE = "here"
    """In the ledger."""
    BACKEND = "backend"
    """It is too large: it is in the result backend, under the task id of the work that finished first."""
    LOST = "lost"
    """It is too large, or cannot be written, and no result backend has it."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Result:
    """What the first run returned: `body` in the form that `content_type` says, where it is kept `HERE`."""

    kept: Kept = Kept.NONE
    body: bytes = b""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """The caller does the work. `fence` is one more than that of the last run that did."""

    fence: int


@dataclass(frozen=True, slots=True)
class Running:
    """Another run does it. It may be begun again in so many `seconds`, if nobody renews the lease."""

    seconds: float
    task_id: str


@dataclass(frozen=True, slots=True)
class Done:
    """It is done since `at`, by the work with this task id."""

    result: Result
    at: datetime
    task_id: str


@dataclass(frozen=True, slots=True)
class Differs:
    """The key is known with other arguments, from the work with this task id."""

    task_id: str


Answer = Begun | Running | Done | Differs


class State(str, Enum):
    """What a ledger knows of a key."""

    RUNNING = "running"
    FREE = "free"
    DONE = "done"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Entry:
    """What a ledger has about one key. `until`: of the lease, or until when it is remembered that the work is done."""

    scope: str
    text: str
    state: State
    fence: int
    task: str
    task_id: str
    began_at: datetime
    until: datetime
    done_at: datetime | None
    result: Result


class Ledger(Protocol):
    """Every method may raise `LedgerError`: the ledger is away, or refuses what it was asked."""

    @property
    def name(self) -> str:
        """Where the ledger is, as people may see it."""

    def begin(self, key: Key, run: Run, arguments: str, lease: timedelta) -> Answer:
        """Begin the work, if nobody does it and nobody has done it.

        An attempt of the same work with a higher turn takes the key over at once. So does anybody once the lease is
        over.

        Args:
            key: names the work.
            run: who asks.
            arguments: a digest of the arguments.
            lease: for how long the run may go on without renewing it.
        """

    def renew(self, owners: Collection[str], lease: timedelta) -> set[str]:
        """Prolong the leases of these runs; returns the owners of those that are still theirs."""

    def hold(self, owner: str, seconds: float) -> bool:
        """Keep the key of a run that has ended, for the next attempt of its work; `False`: it had lost its lease."""

    def finish(self, key: Key, owner: str, result: Result, ttl: timedelta) -> bool:
        """Note that the work is done; `False`: that run has lost its lease to another one.

        A run that has noted it already may note a result once more.
        """

    def free(self, owner: str) -> bool:
        """Let the work of a run that has ended be begun again; `False`: it had lost its lease, or is done."""

    def entry(self, key: Key) -> Entry | None:
        """What the ledger has about a key."""

    def find(self, environment: str, text: str, scope: str | None = None, most: int = 20) -> list[Key]:
        """The keys that people know by a text, at most so many. For commands: it may look at every key that there is.

        Args:
            environment: of the settings.
            text: what a key shows as its text.
            scope: only keys of this scope; `None`: of any.
            most: at most so many.
        """

    def forget(self, key: Key, fence: int | None = None) -> bool:
        """Remove a key, so that its work may be done again; `False`: there is none.

        Args:
            key: names the work.
            fence: remove it only while its last run has this fence; `None`: in any case.
        """

    def prune(self, most: int = 1000) -> int:
        """Remove entries that are past their time, at most so many; returns how many."""

    def now(self) -> datetime:
        """This instant by the ledger's clock."""

    def close(self) -> None:
        """Give up the connections of this process; never raises."""


REMEMBERED = timedelta(days=1)
"""How long a ledger remembers the fence of a key that is free, or whose run has vanished."""


@dataclass(frozen=True, slots=True)
class Line:
    """What a ledger has written about a key, as far as it decides who may begin. `left`: seconds until `until`."""

    state: State
    work: str
    turn: int
    owner: str
    arguments: str
    task_id: str
    left: float
    done_at: datetime | None
    result: Result


def refusal(line: Line, run: Run, arguments: str) -> Running | Done | Differs | None:
    """Why a run may not begin, of a key that a ledger knows; `None`: it may."""
    if line.state is State.FREE or line.left <= 0:
        return None
    if line.state is State.RUNNING and line.work == run.work and (run.turn > line.turn or run.owner == line.owner):
        return None
    if line.work != run.work and line.arguments != arguments:
        return Differs(line.task_id)
    if line.state is State.DONE:
        return Done(line.result, line.done_at or from_epoch(0), line.task_id)
    return Running(line.left, line.task_id)
