from __future__ import annotations

import itertools
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.policy import Constant, Exponential, PlannedAttempt, Policy, Schedule, schedule
from celery_guardrails.policy.schedule import MOST_ROWS, retry_window


def minutes(count):
    return timedelta(minutes=count)


def test_the_drawn_schedule():
    policy = Policy(backoff=Constant("2m"), jitter=0.25, max_attempts=3)
    assert schedule(policy) == (
        PlannedAttempt(1, minutes(0), minutes(0)),
        PlannedAttempt(2, minutes(1.5), minutes(2.5)),
        PlannedAttempt(3, minutes(3), minutes(5)),
    )


def test_the_deadline_s_cut_is_shown():
    policy = Policy(backoff=Constant("2m"), jitter=0.25, max_attempts=9, deadline="4m")
    assert schedule(policy)[2:] == (
        PlannedAttempt(3, minutes(3), minutes(4), "may_exceed"),
        PlannedAttempt(4, minutes(4.5), minutes(7.5), "exceeds"),
    )


def test_at_most_fifty_rows():
    assert len(schedule(Policy(max_attempts=10_000, deadline=None, backoff=Constant(1)))) == MOST_ROWS
    assert len(schedule(Policy(max_attempts=None, deadline="3650d", backoff=Constant(0)))) == MOST_ROWS
    assert len(schedule(Policy(max_attempts=1))) == 1


@given(
    st.sampled_from(["full", "equal", "decorrelated", "none", 0.5]), st.floats(0, 3650 * 86400), st.none() | st.just(60)
)
def test_rows_are_in_order_whatever_the_policy(jitter, base, cap):
    rows = schedule(Policy(jitter=jitter, backoff=Exponential(base, cap=cap), max_attempts=60, deadline="30d"))
    assert all(row.earliest <= row.latest for row in rows)
    assert all(one.earliest <= other.earliest for one, other in itertools.pairwise(rows))
    assert all(row.deadline != "exceeds" for row in rows[:-1])


def test_a_callable_is_drawn_too():
    assert len(schedule(Policy(backoff=lambda attempt, failure: len(failure.mro) * attempt))) == 5


@pytest.mark.parametrize(
    ("policy", "window"),
    [
        (Policy(), timedelta(seconds=250)),
        (Policy(max_attempts=1), timedelta(0)),
        (Policy(max_attempts=3, backoff=Constant("10m"), jitter="none"), timedelta(minutes=20)),
        (Policy(max_attempts=10, backoff=Schedule(["1h"]), jitter="none", deadline="3h"), timedelta(hours=3)),
        (Policy(max_attempts=None, deadline="5h"), timedelta(hours=5)),
        (Policy(max_attempts=4, backoff=Schedule(["8h"]), jitter="none", deadline=None), timedelta(hours=24)),
    ],
)
def test_how_long_retries_may_take(policy, window):
    assert retry_window(policy) == window
