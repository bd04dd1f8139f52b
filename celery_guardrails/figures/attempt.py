"""How one attempt ended, as data: made once, where the end is known, and read by the counters and the log.

Owns the fields. It must not know how they are found, counted or shown.
"""
# on its own: what figures count is data that the processes of a worker share

from __future__ import annotations

from typing import NamedTuple

from celery_guardrails.figures.summary import AttemptOutcome

__all__ = ["FAILED", "AttemptEnd"]

FAILED = frozenset(
    each.value
    for each in (
        AttemptOutcome.RETRIED,
        AttemptOutcome.DEAD,
        AttemptOutcome.EXPECTED,
        AttemptOutcome.NOT_TAKEN,
        AttemptOutcome.PLAIN,
    )
)
"""The outcomes of an attempt that failed."""


class AttemptEnd(NamedTuple):
    """The end of one attempt; instants are seconds since 1970. A tuple, because it crosses from child to main process.

    `error`, `category` and `fingerprint` describe the failure, `None` without one. `delay` is the seconds until the
    next attempt. `due_at` is when this attempt was due: its publish, where nothing delayed it. `life_starts_at` is the
    first publish, or the last requeue. `letter_id` is the id of the dead letter that was published or spooled, `reason`
    why it is dead.
    """

    task: str
    task_id: str
    outcome: str
    attempt: int
    ended_at: float
    started_at: float | None = None
    root_id: str | None = None
    max_attempts: int | None = None
    category: str | None = None
    error: str | None = None
    fingerprint: str | None = None
    delay: float | None = None
    queue: str = ""
    worker: str = ""
    generation: int = 0
    due_at: float | None = None
    life_starts_at: float | None = None
    letter_id: str | None = None
    reason: str | None = None
