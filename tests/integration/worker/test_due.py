"""Work that is sent for later than its deadline: the deadline counts from when it was due."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tests.guarded import Guarded

DEADLINE = 15
"""Seconds of those tasks' deadline, ample for a busy machine."""
LATER = DEADLINE + 3


def attempts_of(guarded: Guarded, key: str) -> list[int]:
    """The attempts of `key`, by Celery's counter."""
    return [run["retries"] for run in guarded.runs(key)]


@pytest.mark.parametrize("how", ["countdown", "eta", "by Celery alone", "by hand"])
def test_work_for_later_than_its_deadline_is_retried(guarded: Guarded, how: str) -> None:
    guarded.worker()
    eta = datetime.now(timezone.utc) + timedelta(seconds=LATER)
    kwargs: dict[str, Any] = {"key": "later", "failures": 2}
    task = guarded.tasks.by_hand_soon if how == "by hand" else guarded.tasks.soon
    if how == "by Celery alone":  # a producer that knows nothing of guardrails
        guarded.app.send_task(task.name, kwargs=kwargs, eta=eta)
    elif how == "eta":
        task.apply_async(kwargs=kwargs, eta=eta)
    else:
        task.apply_async(kwargs=kwargs, countdown=LATER)
    guarded.wait_for_runs("later", 3, 120)
    assert attempts_of(guarded, "later") == [0, 1, 2]
    guarded.no_letters()


def test_a_retrys_own_delay_does_not_move_the_deadline(guarded: Guarded) -> None:
    guarded.worker()
    guarded.tasks.soon.apply_async(kwargs={"key": "later", "failures": 99}, countdown=LATER)
    letter = guarded.letter(120)
    assert letter.reason.value == "deadline_exceeded"
    assert re.search(
        r"\d s after it was due, a retry in \d s \(backoff\) would start after the deadline", letter.explanation
    )
    header = letter.message.headers["guardrails"]
    assert header["due_at"] >= header["published_at"] + LATER - 1
    last = letter.attempts[-1]
    assert len(letter.attempts) > 1
    # the attempt after it would have started past the deadline, which no retry has moved
    assert last.ended_at.timestamp() + 2 > header["due_at"] + DEADLINE
