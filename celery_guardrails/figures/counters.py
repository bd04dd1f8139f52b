"""The counters of one worker: how attempts ended since the last summary, in memory, for any thread.

A task that succeeds pays for one `append`. A thousand of them are added up together, which costs each a tenth of what
it would cost alone. Memory is bounded: at most 20,000 successes and as many other ends wait to be added up, and a
summary has bounds of its own. Owns that. It must not know where ends come from, and where summaries go.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from math import isfinite
from operator import add, sub
from typing import Any, TypeVar
from uuid import uuid4

from celery_guardrails.clock import LATEST, LONGEST
from celery_guardrails.figures.attempt import FAILED, AttemptEnd
from celery_guardrails.figures.histogram import BOUNDS, Histogram
from celery_guardrails.figures.reading import stored_name
from celery_guardrails.figures.summary import MOST_ATTEMPTS, AttemptOutcome, Summary, TaskFigures

__all__ = ["TOGETHER", "Counters"]

TOGETHER = 1_000
"""Ends that are added up at once."""
_MOST = 20_000
_LONGEST = LONGEST.total_seconds()
_PATIENCE = 1.0
"""Seconds that `take` waits for another thread that is adding up."""

_T = TypeVar("_T")
_First = tuple[str, float, float, object]
"""A task that succeeded at its first attempt: its name, when it started, its run time, when it was published."""


class Counters:
    """What one worker counts until somebody takes the summary. Safe from any thread; no call waits for another thread.

    Attributes:
        first: takes first attempts that succeeded: the task's name, when it started (seconds since 1970), its run time
            in seconds, and when it was published, as its header says. Whoever appends the one that makes `TOGETHER`
            calls `add_up`.
    """

    def __init__(self) -> None:
        self.first: deque[_First] = deque(maxlen=_MOST)
        self._ends: deque[AttemptEnd] = deque(maxlen=_MOST)
        self._dead: deque[tuple[str, str]] = deque(maxlen=_MOST)
        self._summary = _empty()
        self._lock = threading.Lock()

    def note(self, end: AttemptEnd) -> None:
        """Count the end of an attempt, and its dead letter."""
        self._ends.append(end)
        if len(self._ends) >= TOGETHER:
            self.add_up()

    def note_dead(self, letter: str, task: str) -> None:
        """Note a dead letter that was published or spooled, whose attempt is not counted here."""
        self._dead.append((letter, task))

    def add_up(self, patience: float = 0.0) -> None:
        """Add what was noted to the summary, unless another thread does so.

        Args:
            patience: seconds to wait for that other thread.
        """
        if not self._lock.acquire(timeout=patience) if patience else not self._lock.acquire(blocking=False):
            return
        try:
            self._add_up()
        finally:
            self._lock.release()

    def take(self, environment: str, worker: str, pid: int, now: float) -> Summary | None:
        """The summary of what was counted since the last call; `None`: nothing was.

        Args:
            environment, worker, pid: who counted.
            now: this instant, in seconds since 1970.
        """
        if not self._lock.acquire(timeout=_PATIENCE):
            return None
        try:
            self._add_up()
            taken, self._summary = self._summary, _empty(now)
        finally:
            self._lock.release()
        if taken.is_empty:
            return None
        taken.environment, taken.worker, taken.pid = stored_name(environment), stored_name(worker), pid
        taken.started_at, taken.ended_at = min(taken.started_at or now, now), now
        return taken

    def _add_up(self) -> None:
        records = _emptied(self.first)
        names = {each[0] for each in records}
        for task in names:
            self._add_first(task, records if len(names) == 1 else [each for each in records if each[0] == task])
        for end in _emptied(self._ends):
            self._add(end)
        for letter, task in _emptied(self._dead):
            self._summary.note_dead(stored_name(letter), stored_name(task))

    def _add_first(self, task: str, records: Sequence[_First]) -> None:
        figures = self._summary.figures_of(stored_name(task))
        if figures is None:
            self._summary.others += len(records)
            return
        _count(figures.outcomes, AttemptOutcome.SUCCEEDED.value, len(records))
        _count(figures.succeeded_at_attempt, 1, len(records))
        _, starts, runs, published = zip(*records, strict=True)
        _add_all(figures.run_time, list(runs))
        delays, lives = _delays(starts, runs, published)
        _add_all(figures.start_delay, delays)
        _add_all(figures.time_to_succeed, lives)
        _note_times(figures, max(starts), max(map(add, starts, runs)))

    def _add(self, end: AttemptEnd) -> None:
        task = stored_name(end.task)
        if end.letter_id is not None:
            self._summary.note_dead(stored_name(end.letter_id), task)
        figures = self._summary.figures_of(task)
        if figures is None:
            self._summary.others += 1
            return
        _count(figures.outcomes, end.outcome)
        number = min(max(1, end.attempt), MOST_ATTEMPTS)
        if end.outcome == AttemptOutcome.SUCCEEDED:
            _count(figures.succeeded_at_attempt, number)
            _note_times(figures, None, end.ended_at)
            if end.life_starts_at is not None:
                figures.time_to_succeed.add(_seconds(end.ended_at - end.life_starts_at))
        elif end.outcome == AttemptOutcome.DEAD:
            _count(figures.dead_at_attempt, number)
        if end.outcome in FAILED:
            error = stored_name(end.error or "unknown")
            figures.count_error(stored_name(end.fingerprint or error), error)
        if end.started_at is not None:
            _note_times(figures, end.started_at, None)
            figures.run_time.add(_seconds(end.ended_at - end.started_at))
            if end.due_at is not None:
                figures.start_delay.add(_seconds(end.started_at - end.due_at))


def _count(counts: dict[_T, int], key: _T, times: int = 1) -> None:
    counts[key] = counts.get(key, 0) + times


def _delays(
    starts: Sequence[float], runs: Sequence[float], published: Sequence[Any]
) -> tuple[list[float], list[float]]:
    """The start delays, and the times to succeed; without those whose header names no instant of publishing."""
    try:
        sound = min(published) > 0 and max(published) < LATEST and isfinite(sum(published))
    except (TypeError, OverflowError):
        sound = False
    if not sound:
        kept = [each for each in zip(starts, runs, published, strict=True) if _is_instant(each[2])]
        if not kept:
            return [], []
        starts, runs, published = zip(*kept, strict=True)
    delays = list(map(sub, starts, published))
    return delays, list(map(add, delays, runs))


def _is_instant(raw: Any) -> bool:
    """Whether this is an instant in seconds, whatever somebody has written into a message's header."""
    return type(raw) in (int, float) and 0 < raw < LATEST


def _empty(now: float = 0.0) -> Summary:
    return Summary(str(uuid4()), "", "", 0, now, now)


def _emptied(waiting: deque[_T]) -> list[_T]:
    """Take what waits now; what is noted meanwhile waits for the next time. Only one thread takes at a time."""
    return [waiting.popleft() for _ in range(len(waiting))]


def _add_all(histogram: Histogram, durations: list[float]) -> None:
    """Count many durations at once: sorted, they need one search a class, and not one each."""
    durations.sort()
    if durations and not (durations[0] >= 0 and durations[-1] <= _LONGEST):
        durations = sorted(_seconds(each) for each in durations)
    below = 0
    for index, bound in enumerate(BOUNDS):
        if below == len(durations):
            break
        up_to = bisect_right(durations, bound, below)
        if up_to > below:
            histogram.counts[index] = histogram.counts.get(index, 0) + up_to - below
            below = up_to
    if below < len(durations):
        histogram.counts[len(BOUNDS)] = histogram.counts.get(len(BOUNDS), 0) + len(durations) - below
    histogram.total += sum(durations)


def _seconds(duration: float) -> float:
    """A duration within bounds, whatever clocks and headers say."""
    return min(max(0.0, duration), _LONGEST) if duration == duration else 0.0


def _note_times(figures: TaskFigures, started_at: float | None, succeeded_at: float | None) -> None:
    if started_at is not None and 0 < started_at < LATEST:
        figures.last_started_at = max(figures.last_started_at or 0.0, started_at)
    if succeeded_at is not None and 0 < succeeded_at < LATEST:
        figures.last_succeeded_at = max(figures.last_succeeded_at or 0.0, succeeded_at)
