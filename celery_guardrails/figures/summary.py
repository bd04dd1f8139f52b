"""What one worker process has counted in some seconds: one small message, sent every 10 s, never one a task.

Owns `Summary` and `TaskFigures`, how two are merged, and their JSON form (schema version 1). Losing a summary loses
figures, never a task. It must not know how they are counted, sent or stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from celery_guardrails.figures.histogram import Histogram

__all__ = ["MOST_ATTEMPTS", "MOST_DEAD", "MOST_ERRORS", "MOST_TASKS", "AttemptOutcome", "Summary", "TaskFigures"]

MOST_TASKS = 200
"""Task names in one summary; attempts of further tasks are counted under `others`."""
MOST_ERRORS = 20
"""Fingerprints of one task in one summary; further ones are counted under `other_errors`."""
MOST_ATTEMPTS = 20
"""Attempt numbers that are told apart; a later attempt counts as this one."""
MOST_DEAD = 2_000
"""Ids of dead letters in one summary; further ones are counted in `dead_unlisted`."""


class AttemptOutcome(str, Enum):
    """How an attempt ended.

    `succeeded`; `retried`: another attempt is published; `dead`: a dead letter is published or in the spool;
    `expected`: failed with an error of the task's `throws`, for good and without a letter; `ignored`: the task raised
    Ignore or Reject; `replaced`: `self.replace()`; `not_taken`: neither letter nor retry could be kept, so the message
    went back to its queue; `plain`: failed with nothing of ours in the way (the kill switch).
    """

    SUCCEEDED = "succeeded"
    RETRIED = "retried"
    DEAD = "dead"
    EXPECTED = "expected"
    IGNORED = "ignored"
    REPLACED = "replaced"
    NOT_TAKEN = "not_taken"
    PLAIN = "plain"

    def __str__(self) -> str:
        return self.value


@dataclass
class TaskFigures:
    """One task's figures.

    Attributes:
        outcomes: attempts that ended, by `AttemptOutcome`.
        succeeded_at_attempt, dead_at_attempt: jobs that ended, by the number of their last attempt (1 to 20); retries
            per job follow from both.
        errors: failed attempts by fingerprint; `error_types`: the type's name of each; `other_errors`: the rest.
        run_time: from the start of an attempt's body to its end.
        start_delay: from the instant an attempt was due (its publish, without a delay) to its start.
        time_to_succeed: from the first publish, or the last requeue, to the end of the successful attempt.
        last_started_at, last_succeeded_at: seconds since 1970.
    """

    outcomes: dict[str, int] = field(default_factory=dict)
    succeeded_at_attempt: dict[int, int] = field(default_factory=dict)
    dead_at_attempt: dict[int, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    error_types: dict[str, str] = field(default_factory=dict)
    other_errors: int = 0
    run_time: Histogram = field(default_factory=Histogram)
    start_delay: Histogram = field(default_factory=Histogram)
    time_to_succeed: Histogram = field(default_factory=Histogram)
    last_started_at: float | None = None
    last_succeeded_at: float | None = None


@dataclass
class Summary:
    """What one process counted between two instants.

    Attributes:
        id: unique, so that a guardian counts a summary once.
        environment: as in the settings.
        worker: the worker's name, such as `celery@host`.
        pid: of the process that counted.
        started_at, ended_at: the period, seconds since 1970.
        tasks: by task name.
        others: attempts of tasks beyond `MOST_TASKS`.
        dead: the ids of the dead letters that were published or spooled in the period (the `id` of the letter: the
            same death reported twice has one id), with the task of each.
        dead_unlisted: dead letters beyond `MOST_DEAD`.
    """

    id: str
    environment: str
    worker: str
    pid: int
    started_at: float
    ended_at: float
    tasks: dict[str, TaskFigures] = field(default_factory=dict)
    others: int = 0
    dead: dict[str, str] = field(default_factory=dict)
    dead_unlisted: int = 0
