"""The schedule of attempts as a picture made of characters: when each may start, and where the deadline is.

Pure text. It must not know where the schedule comes from.
"""
# on its own: the picture is drawn and tested without any command

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from celery_guardrails.clock import shown
from celery_guardrails.policy.schedule import PlannedAttempt

__all__ = ["draw"]

_NEAR = 1.25


def draw(
    planned: Sequence[PlannedAttempt], deadline: timedelta | None, width: int = 50, *, ascii_only: bool = False
) -> list[tuple[str, str, str, str, str]]:
    """The rows of the picture: number, earliest, latest, bar, remark.

    The bars share one linear time axis of `width` columns. It begins when the work was due and ends at the last
    attempt, or at the deadline if that is at most a quarter later. A deadline on the axis is drawn in each bar.
    """
    end = max((attempt.latest for attempt in planned), default=timedelta(0))
    if deadline is not None and deadline <= end * _NEAR:
        end = max(end, deadline)
    rows = []
    for attempt in planned:
        bar = _bar(attempt, end, deadline, width, ascii_only)
        rows.append((str(attempt.number), shown(attempt.earliest), shown(attempt.latest), bar, _remark(attempt)))
    return rows


def _bar(attempt: PlannedAttempt, end: timedelta, deadline: timedelta | None, width: int, ascii_only: bool) -> str:
    full, empty, line = ("#", ".", "|") if ascii_only else ("█", "·", "│")
    cells = [empty] * width
    if deadline is not None and deadline <= end:
        cells[_column(deadline, end, width)] = line
    if attempt.deadline != "exceeds":
        first, last = _column(attempt.earliest, end, width), _column(attempt.latest, end, width)
        cells[first : last + 1] = [full] * (last + 1 - first)
    return "".join(cells)


def _column(at: timedelta, end: timedelta, width: int) -> int:
    return min(width - 1, round(at / end * (width - 1))) if end else 0


def _remark(attempt: PlannedAttempt) -> str:
    if attempt.deadline == "exceeds":
        return "never: after the deadline"
    return "may miss the deadline" if attempt.deadline == "may_exceed" else ""
