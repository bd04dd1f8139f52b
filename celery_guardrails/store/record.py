"""What goes into the archive and what comes out of it, as data.

Owns the states of a dead letter and the classes that queries return. Knows neither SQL nor the callers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from celery_guardrails.letters.codec import encode
from celery_guardrails.letters.record import Letter

__all__ = [
    "Archivable",
    "Archived",
    "ArchivedLetter",
    "Before",
    "Death",
    "Group",
    "Keyset",
    "LetterSummary",
    "Outcome",
    "Page",
    "SetAside",
    "State",
    "Stats",
    "Unreported",
]


class State(str, Enum):
    """The state of a dead letter: `dead` -> `requeued` -> `recovered`, or `dead` again; `dead` <-> `discarded`."""

    DEAD = "dead"
    REQUEUED = "requeued"
    RECOVERED = "recovered"
    DISCARDED = "discarded"

    def __str__(self) -> str:
        return self.value


class Outcome(str, Enum):
    """The result of archiving one death."""

    NEW = "new"
    """The work is new to the archive."""
    DUPLICATE = "duplicate"
    """The same death is archived already: a redelivery."""
    REGRESSED = "regressed"
    """Work that was put back has died again; it is `dead` with this generation."""
    STALE = "stale"
    """A death that changes no state, of an older generation or a second death of the same; kept in the history."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Archivable:
    """A letter together with its JSON exactly as it was published."""

    letter: Letter
    payload: bytes

    @classmethod
    def of(cls, letter: Letter) -> Archivable:
        """A letter that was not published, because the guardian made it for an unreadable message."""
        return cls(letter, encode(letter))


@dataclass(frozen=True, slots=True)
class Before:
    """A letter's last death before it died again: when, and of what."""

    died_at: datetime
    fingerprint: str
    reason: str
    may_have_run: bool


@dataclass(frozen=True, slots=True)
class Archived:
    """One death after archiving. `id` is the dead letter's, `death_id` this death's.

    `letter` is the letter as it is archived. `set_aside` says that the death named another letter and was not believed:
    it became a letter of its own.
    """

    id: str
    death_id: str
    outcome: Outcome
    letter: Letter
    set_aside: SetAside | None = None


@dataclass(frozen=True, slots=True)
class SetAside:
    """A report that is not believed: `claimed_id` is the letter that it names, `doubt` says why.

    A further death is kept as a new letter with the id `kept_as`. `None`: the report is a recovery, and changes
    nothing.
    """

    claimed_id: str
    doubt: str
    kept_as: str | None = None


@dataclass(frozen=True, slots=True)
class LetterSummary:
    """One row of the archive, without the replayable payload.

    `id` is the id of the first death, `death_id` of the latest. `message` is redacted and cut to 500 characters.
    `attempts` counts the executions of the latest generation. `regressed` says that the work died again after a
    requeue, `may_have_run` that its body may have done its work already. `requeue_tried_at` is when somebody last began
    to publish it, `requeue_published_at` when the broker took it, `resolved_at` when it recovered or was discarded.
    """

    id: str
    task: str
    task_id: str
    root_id: str | None
    parent_id: str | None
    group_id: str | None
    state: State
    reason: str
    category: str
    error: str
    message: str
    fingerprint: str
    generation: int
    environment: str
    worker: str
    queue: str
    owner: str | None
    severity: str
    version: str | None
    published_at: datetime | None
    first_failed_at: datetime
    died_at: datetime
    archived_at: datetime
    requeued_at: datetime | None
    requeued_by: str | None
    requeue_reason: str | None
    requeue_tried_at: datetime | None
    requeue_published_at: datetime | None
    resolved_at: datetime | None
    regressed: bool
    may_have_run: bool
    attempts: int
    death_id: str


@dataclass(frozen=True, slots=True)
class ArchivedLetter:
    """One whole dead letter: its row, and the letter of its latest death, which a requeue publishes."""

    summary: LetterSummary
    letter: Letter


@dataclass(frozen=True, slots=True)
class Death:
    """One death of a work, with the letter of that death."""

    id: str
    generation: int
    died_at: datetime
    reason: str
    letter: Letter


@dataclass(frozen=True, slots=True)
class Keyset:
    """Where a page ended; the next one starts after it."""

    died_at: datetime
    id: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some dead letters in order; `next` is `None` on the last page."""

    letters: tuple[LetterSummary, ...]
    next: Keyset | None


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters that have something in common.

    `key` holds the columns grouped by and their values (an absent value is `""`); `error`, `message` and
    `sample_id` are those of the latest death in the group; `states` counts by state.
    """

    key: Mapping[str, str]
    count: int
    first_died_at: datetime
    last_died_at: datetime
    error: str
    message: str
    sample_id: str
    regressed: int
    states: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Unreported:
    """Letters of one task that were put back and whose end is not known: how many, and the oldest requeue."""

    task: str
    count: int
    requeued_at: datetime


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts over the archive; `oldest_dead_at` is the death of the letter that has waited longest for a decision."""

    total: int
    by_state: Mapping[str, int]
    by_task: Mapping[str, int]
    by_reason: Mapping[str, int]
    oldest_dead_at: datetime | None
