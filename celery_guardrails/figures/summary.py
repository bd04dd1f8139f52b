"""What one worker process has counted in some seconds: one small message, sent every 10 s, never one a task.

Owns `Summary` and `TaskFigures`, how two are merged, and their JSON form (schema version 1). Losing a summary loses
figures, never a task. It must not know how they are counted, sent or stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from celery_guardrails.figures import reading
from celery_guardrails.figures.histogram import Histogram

__all__ = [
    "MOST_ATTEMPTS",
    "MOST_BYTES",
    "MOST_DEAD",
    "MOST_ERRORS",
    "MOST_TASKS",
    "AttemptOutcome",
    "Summary",
    "TaskFigures",
]

K = TypeVar("K")

SCHEMA_VERSION = 1

MOST_TASKS = 200
"""Task names in one summary; attempts of further tasks are counted under `others`."""
MOST_ERRORS = 20
"""Fingerprints of one task in one summary; further ones are counted under `other_errors`."""
MOST_ATTEMPTS = 20
"""Attempt numbers that are told apart; a later attempt counts as this one."""
MOST_DEAD = 2_000
"""Ids of dead letters in one summary; further ones are counted in `dead_unlisted`."""
MOST_BYTES = 16 * 2**20
"""The largest message that is read: more than one has in which every bound is reached. Most have a few KiB."""


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

    @property
    def attempts(self) -> int:
        """How many attempts ended."""
        return sum(self.outcomes.values())

    def count_error(self, fingerprint: str, error: str, times: int = 1) -> None:
        """Count failed attempts with one error: under `other_errors` if `MOST_ERRORS` others are counted already."""
        if fingerprint not in self.errors and len(self.errors) >= MOST_ERRORS:
            self.other_errors += times
            return
        _add(self.errors, fingerprint, times)
        self.error_types.setdefault(fingerprint, error)

    def merge(self, other: TaskFigures) -> None:
        """Add another period's or process's figures of the same task; no count is lost."""
        _add_all(self.outcomes, other.outcomes)
        _add_all(self.succeeded_at_attempt, other.succeeded_at_attempt)
        _add_all(self.dead_at_attempt, other.dead_at_attempt)
        for fingerprint, times in other.errors.items():
            self.count_error(fingerprint, other.error_types.get(fingerprint, fingerprint), times)
        self.other_errors += other.other_errors
        self.run_time.merge(other.run_time)
        self.start_delay.merge(other.start_delay)
        self.time_to_succeed.merge(other.time_to_succeed)
        self.last_started_at = _later(self.last_started_at, other.last_started_at)
        self.last_succeeded_at = _later(self.last_succeeded_at, other.last_succeeded_at)

    def as_payload(self) -> dict[str, Any]:
        """JSON-safe data, which `from_payload` reads back; what is empty is left out."""
        found: dict[str, Any] = {
            "outcomes": self.outcomes,
            "succeeded_at_attempt": self.succeeded_at_attempt,
            "dead_at_attempt": self.dead_at_attempt,
            "errors": self.errors,
            "error_types": self.error_types,
            "other_errors": self.other_errors,
            "run_time": self.run_time.as_payload() if self.run_time.counts else None,
            "start_delay": self.start_delay.as_payload() if self.start_delay.counts else None,
            "time_to_succeed": self.time_to_succeed.as_payload() if self.time_to_succeed.counts else None,
            "last_started_at": self.last_started_at,
            "last_succeeded_at": self.last_succeeded_at,
        }
        return {name: value for name, value in found.items() if value}

    @classmethod
    def from_payload(cls, raw: object) -> TaskFigures:
        """Read what `as_payload` wrote.

        Raises:
            ValueError: it is something else, or beyond a bound.
        """
        if not isinstance(raw, Mapping):
            raise ValueError("the figures of a task are an object")
        number = reading.number_up_to(MOST_ATTEMPTS)
        return cls(
            outcomes=reading.counts(raw.get("outcomes"), _outcome, len(AttemptOutcome)),
            succeeded_at_attempt=reading.counts(raw.get("succeeded_at_attempt"), number, MOST_ATTEMPTS),
            dead_at_attempt=reading.counts(raw.get("dead_at_attempt"), number, MOST_ATTEMPTS),
            errors=reading.counts(raw.get("errors"), reading.name, MOST_ERRORS),
            error_types=reading.section(raw.get("error_types"), reading.name, reading.name, MOST_ERRORS),
            other_errors=reading.count(raw.get("other_errors", 0)),
            run_time=_histogram(raw.get("run_time")),
            start_delay=_histogram(raw.get("start_delay")),
            time_to_succeed=_histogram(raw.get("time_to_succeed")),
            last_started_at=_instant(raw.get("last_started_at")),
            last_succeeded_at=_instant(raw.get("last_succeeded_at")),
        )


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
        no_guardian: how often the worker has noticed that nobody takes figures.
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
    no_guardian: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return not (self.tasks or self.others or self.dead or self.dead_unlisted)

    def figures_of(self, task: str) -> TaskFigures | None:
        """The figures to count an attempt of this task in; `None`: count it under `others`, there is no room."""
        found = self.tasks.get(task)
        if found is None and len(self.tasks) < MOST_TASKS:
            found = self.tasks[task] = TaskFigures()
        return found

    def note_dead(self, letter: str, task: str) -> None:
        """Note a dead letter that was published or spooled; the same one twice counts once."""
        if letter in self.dead or len(self.dead) < MOST_DEAD:
            self.dead[letter] = task
        else:
            self.dead_unlisted += 1

    def merge(self, other: Summary) -> None:
        """Add another summary's figures; `id`, `environment`, `worker` and `pid` stay this one's.

        No attempt and no dead letter is lost: what this summary has no room for is counted in `others`,
        `other_errors` and `dead_unlisted`.
        """
        self.started_at = min(self.started_at, other.started_at)
        self.ended_at = max(self.ended_at, other.ended_at)
        for task, figures in other.tasks.items():
            mine = self.figures_of(task)
            if mine is None:
                self.others += figures.attempts
            else:
                mine.merge(figures)
        self.others += other.others
        for letter, task in other.dead.items():
            self.note_dead(letter, task)
        self.dead_unlisted += other.dead_unlisted
        self.no_guardian += other.no_guardian

    def encode(self) -> bytes:
        """The message: JSON, schema version 1."""
        dead: dict[str, list[str]] = {}
        for letter, task in self.dead.items():
            dead.setdefault(task, []).append(letter)
        body = {
            "v": SCHEMA_VERSION,
            "id": self.id,
            "environment": self.environment,
            "worker": self.worker,
            "pid": self.pid,
            "started_at": round(self.started_at, 3),
            "ended_at": round(self.ended_at, 3),
            "tasks": {task: figures.as_payload() for task, figures in self.tasks.items()},
            "others": self.others,
            "dead": dead,
            "dead_unlisted": self.dead_unlisted,
            "no_guardian": self.no_guardian,
        }
        return json.dumps(body, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()

    @classmethod
    def decode(cls, body: bytes) -> Summary:
        """Read a message. Fields that this version does not know are ignored.

        Raises:
            ValueError: it is not a summary, a field is of the wrong type or beyond its bound, or it was written in a
                newer form.
        """
        if len(body) > MOST_BYTES:
            raise ValueError(f"a summary has at most {MOST_BYTES} bytes, this message has {len(body)}")
        try:
            raw = json.loads(body)
        except RecursionError as exc:
            raise ValueError("the message is nested too deeply") from exc
        if not isinstance(raw, Mapping) or raw.get("v") != SCHEMA_VERSION or isinstance(raw["v"], bool):
            raise ValueError(f"a summary is an object with `v` {SCHEMA_VERSION}")
        return cls(
            id=reading.name(raw.get("id")),
            environment=reading.name(raw.get("environment")),
            worker=reading.name(raw.get("worker")),
            pid=reading.count(raw.get("pid")),
            started_at=reading.instant(raw.get("started_at")),
            ended_at=reading.instant(raw.get("ended_at")),
            tasks=reading.section(raw.get("tasks"), reading.name, TaskFigures.from_payload, MOST_TASKS),
            others=reading.count(raw.get("others", 0)),
            dead=_dead(raw.get("dead")),
            dead_unlisted=reading.count(raw.get("dead_unlisted", 0)),
            no_guardian=reading.count(raw.get("no_guardian", 0)),
        )


def _dead(raw: object) -> dict[str, str]:
    found: dict[str, str] = {}
    for task, letters in reading.section(raw, reading.name, _list, MOST_DEAD).items():
        found |= {reading.name(letter): task for letter in letters}
    if len(found) > MOST_DEAD:
        raise ValueError(f"a summary lists at most {MOST_DEAD} dead letters")
    return found


def _list(raw: object) -> list[object]:
    if not isinstance(raw, list) or len(raw) > MOST_DEAD:
        raise ValueError(f"a list of at most {MOST_DEAD} ids was expected")
    return raw


def _outcome(raw: object) -> str:
    return AttemptOutcome(raw).value


def _histogram(raw: object) -> Histogram:
    if raw is None:
        return Histogram()
    if not isinstance(raw, Mapping):
        raise ValueError("a histogram is an object")
    return Histogram.from_payload(raw)


def _instant(raw: object) -> float | None:
    return None if raw is None else reading.instant(raw)


def _later(one: float | None, other: float | None) -> float | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _add(counts: dict[K, int], key: K, times: int = 1) -> None:
    counts[key] = counts.get(key, 0) + times


def _add_all(counts: dict[K, int], others: Mapping[K, int]) -> None:
    for key, times in others.items():
        _add(counts, key, times)
