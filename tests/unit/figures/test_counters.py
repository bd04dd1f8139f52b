"""The counters of a worker: nothing is counted twice or lost, whatever threads, clocks and messages do."""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.figures import counters as module
from celery_guardrails.figures.attempt import FAILED, AttemptEnd
from celery_guardrails.figures.counters import TOGETHER, Counters
from celery_guardrails.figures.histogram import Histogram
from celery_guardrails.figures.summary import MOST_ATTEMPTS, MOST_TASKS, AttemptOutcome, Summary

NOW = 1_800_000_000.0


def taken(counters: Counters, now: float = NOW) -> Summary:
    found = counters.take("test", "celery@a", 7, now)
    assert found is not None
    assert Summary.decode(found.encode()).encode() == found.encode()
    return found


def succeed(counters: Counters, task: str, started: float = NOW, run: float = 0.1, published: Any = NOW) -> None:
    counters.first.append((task, started, run, published))
    if len(counters.first) >= TOGETHER:
        counters.add_up()


ENDS = st.builds(
    AttemptEnd,
    task=st.sampled_from(["a", "b", "c\nd"]),
    task_id=st.just("id"),
    outcome=st.sampled_from([each.value for each in AttemptOutcome]),
    attempt=st.integers(-1, 50),
    ended_at=st.floats(allow_nan=True),
    started_at=st.none() | st.floats(),
    error=st.none() | st.text(max_size=5),
    fingerprint=st.none() | st.text(max_size=5),
    due_at=st.none() | st.floats(),
    life_starts_at=st.none() | st.floats(),
    letter_id=st.none() | st.sampled_from(["l1", "l2", "l3"]),
)
ODD = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
)
FIRST = st.tuples(st.sampled_from(["a", "b", "x" * 999]), st.floats(1, 2e9), st.floats(0, 1e5), ODD | st.floats(1, 2e9))


@given(st.lists(ENDS, max_size=30), st.lists(FIRST, max_size=30), st.integers(0, 30))
def test_each_end_is_counted_once(ends: list[AttemptEnd], first: list[Any], taken_after: int) -> None:
    """However odd the instants are, and even if somebody takes the figures in between."""
    counters = Counters()
    total = Summary("total", "test", "w", 1, 0, 0)
    for number, end in enumerate(ends):
        if number == taken_after and (part := counters.take("test", "w", 1, NOW)):
            total.merge(Summary.decode(part.encode()))
        counters.note(end)
    for each in first:
        counters.first.append(each)
    if rest := counters.take("test", "w", 1, NOW):
        total.merge(Summary.decode(rest.encode()))
    outcomes = Counter(end.outcome for end in ends) + Counter({"succeeded": len(first)})
    found: Counter[str] = Counter()
    for figures in total.tasks.values():
        found.update(figures.outcomes)
    assert found == outcomes
    assert set(total.dead) == {end.letter_id for end in ends if end.letter_id is not None}
    failed = sum(end.outcome in FAILED for end in ends)
    assert sum(sum(each.errors.values()) + each.other_errors for each in total.tasks.values()) == failed
    at = sum(sum(each.succeeded_at_attempt.values()) for each in total.tasks.values())
    assert at == outcomes["succeeded"]
    assert counters.take("test", "w", 1, NOW) is None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=50))
def test_durations_that_are_counted_together_fall_into_the_same_classes(times: list[tuple[float, float]]) -> None:
    counters, runs, delays = Counters(), Histogram(), Histogram()
    for run, delay in times:
        succeed(counters, "a", NOW, run, NOW - delay)
        runs.add(run)
        delays.add(NOW - (NOW - delay))
    figures = taken(counters).tasks["a"]
    assert (figures.run_time.counts, figures.start_delay.counts) == (runs.counts, delays.counts)
    assert math.isclose(figures.run_time.total, runs.total, abs_tol=1e-3)
    assert figures.time_to_succeed.number == len(times)


@pytest.mark.parametrize("published", [None, "now", float("nan"), float("inf"), -1, 0, [], 10**400, 1e300])
def test_an_instant_of_publishing_that_is_none_is_left_out(published: Any) -> None:
    counters = Counters()
    succeed(counters, "a", published=published)
    succeed(counters, "a", NOW, 2.0, NOW - 1)
    figures = taken(counters).tasks["a"]
    assert figures.outcomes == {"succeeded": 2}
    assert (figures.run_time.number, figures.start_delay.number, figures.time_to_succeed.number) == (2, 1, 1)


def test_a_task_that_started_before_its_publish_by_the_clocks_waited_for_nothing() -> None:
    counters = Counters()
    succeed(counters, "a", NOW, 1.0, NOW + 60)
    figures = taken(counters).tasks["a"]
    assert figures.start_delay.total == 0.0
    assert figures.start_delay.counts == {0: 1}


def test_late_attempts_are_counted_as_the_last_that_is_told_apart() -> None:
    counters = Counters()
    counters.note(AttemptEnd("a", "id", "dead", 99, NOW))
    assert taken(counters).tasks["a"].dead_at_attempt == {MOST_ATTEMPTS: 1}


def test_tasks_beyond_the_most_are_counted_together() -> None:
    counters = Counters()
    for number in range(MOST_TASKS + 3):
        succeed(counters, f"task {number}")
        counters.note(AttemptEnd(f"task {number}", "id", "retried", 1, NOW))
    found = taken(counters)
    assert len(found.tasks) == MOST_TASKS
    assert found.others + sum(each.attempts for each in found.tasks.values()) == 2 * (MOST_TASKS + 3)


def test_memory_is_bounded_while_nobody_takes_the_figures() -> None:
    counters = Counters()
    for _ in range(3 * TOGETHER):
        succeed(counters, "a")
        counters.note(AttemptEnd("b", "id", "dead", 1, NOW, letter_id="x"))
        counters.note_dead("y", "b")
    assert len(counters.first) + len(counters._ends) < 2 * TOGETHER
    found = taken(counters)
    assert {name: each.attempts for name, each in found.tasks.items()} == {"a": 3 * TOGETHER, "b": 3 * TOGETHER}
    assert set(found.dead) == {"x", "y"}


def test_no_call_waits_for_a_thread_that_adds_up() -> None:
    counters = Counters()
    with counters._lock:
        for _ in range(module._MOST + 5):
            succeed(counters, "a")
        counters.note(AttemptEnd("a", "id", "dead", 1, NOW))
    assert taken(counters).tasks["a"].outcomes == {"succeeded": module._MOST, "dead": 1}


def test_threads_that_count_at_once_lose_nothing() -> None:
    counters, each, threads = Counters(), 5_000, 4
    total = Summary("total", "test", "w", 1, 0, 0)
    over = threading.Event()

    def count(name: str) -> None:
        for number in range(each):
            succeed(counters, name)
            if number % 10 == 0:
                counters.note(AttemptEnd(name, "id", "retried", 1, NOW))

    def take() -> None:
        while not over.is_set():
            if part := counters.take("test", "w", 1, NOW):
                total.merge(part)

    taker = threading.Thread(target=take)
    counting = [threading.Thread(target=count, args=(f"task {number % 2}",)) for number in range(threads)]
    for thread in (taker, *counting):
        thread.start()
    for thread in counting:
        thread.join()
    over.set()
    taker.join()
    if part := counters.take("test", "w", 1, NOW):
        total.merge(part)
    assert sum(figures.outcomes["succeeded"] for figures in total.tasks.values()) == each * threads
    assert sum(figures.outcomes["retried"] for figures in total.tasks.values()) == each * threads // 10


def test_a_summary_says_its_period() -> None:
    counters = Counters()
    succeed(counters, "a")
    first = taken(counters, NOW)
    succeed(counters, "a")
    second = taken(counters, NOW + 10)
    assert (second.started_at, second.ended_at) == (first.ended_at, NOW + 10)
    assert first.id != second.id
