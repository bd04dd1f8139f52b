from __future__ import annotations

import logging
import random
from datetime import timedelta

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.policy import Category, Constant, Exponential, Failure, Linear, Schedule, backoff
from celery_guardrails.policy.backoff import DEFAULT, delay
from celery_guardrails.policy.jitter import bounds, spread

FAILURE = Failure("TimeoutError", "late", Category.TIMEOUT, True, "v1:x", exception=TimeoutError("late"))
TEN_YEARS = timedelta(days=3650).total_seconds()

durations = st.floats(0, TEN_YEARS) | st.integers(0, int(TEN_YEARS))
attempts = st.integers(1, 10_000) | st.integers(1, 10**9)
forms = st.one_of(
    st.builds(Exponential, durations, st.floats(1, 1e308), durations | st.none()),
    st.builds(Linear, durations, durations | st.none(), durations | st.none()),
    st.builds(Constant, durations),
    st.builds(Schedule, st.lists(durations, min_size=1, max_size=5)),
)


@given(forms, attempts)
def test_a_delay_is_within_its_bounds_for_every_attempt(form, attempt):
    seconds = delay(form, attempt, FAILURE)
    assert 0 <= seconds <= TEN_YEARS
    first, longest = backoff.limits(form, seconds, FAILURE)
    assert seconds <= longest * (1 + 1e-9)
    assert 0 <= first <= TEN_YEARS


def test_a_delay_never_overflows_on_the_way_to_ten_thousand():
    growing = Exponential("5s", factor=3, cap=None)
    seconds = [delay(growing, attempt, FAILURE) for attempt in range(1, 10_001)]
    assert seconds == sorted(seconds)
    assert seconds[-1] == TEN_YEARS


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (Exponential("5s", factor=3, cap="5m"), [5, 15, 45, 135, 300, 300]),
        (Exponential("5s", factor=1), [5, 5, 5]),
        (Exponential("10m", cap="5m"), [300, 300]),
        (Exponential(0), [0, 0]),
        (Linear("5s", "10s", cap="30s"), [5, 15, 25, 30, 30]),
        (Linear("5s"), [5, 10, 15]),
        (Constant("7s"), [7, 7]),
        (Schedule(["5s", "15s", 60]), [5, 15, 60, 60]),
        (lambda attempt, failure: attempt * 2, [2, 4, 6]),
        (lambda attempt, failure: timedelta(minutes=attempt), [60, 120]),
        (tenacity.wait_exponential(multiplier=2, max=10), [2, 4, 8, 10]),
        (tenacity.wait_fixed(3) + tenacity.wait_fixed(1), [4, 4]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(9)), [1, 9, 9]),
    ],
)
def test_the_forms(form, expected):
    assert [delay(form, attempt, FAILURE) for attempt in range(1, len(expected) + 1)] == expected


def test_a_tenacity_wait_sees_the_exception_and_may_be_endless():
    wait = tenacity.wait_exception(lambda exc: 7.0 if isinstance(exc, TimeoutError) else 1.0)
    assert delay(wait, 1, FAILURE) == 7
    assert 0 <= delay(tenacity.wait_random_exponential(), 5, FAILURE) <= TEN_YEARS
    assert delay(lambda attempt, failure: float("inf"), 1, FAILURE) == TEN_YEARS


def broken(attempt, failure):
    raise RuntimeError("no")


@pytest.mark.parametrize(
    "callable_",
    [broken, lambda: 3, *(lambda a, f, answer=answer: answer for answer in (None, -1, float("nan"), "soon", {}))],
)
def test_a_broken_callable_is_logged_and_the_default_is_used(callable_, caplog):
    with caplog.at_level(logging.WARNING):
        assert delay(callable_, 2, FAILURE) == DEFAULT.seconds(2) == 15
    assert "attempt 2" in caplog.text


def test_a_form_reads_as_one_would_write_it():
    assert str(Exponential("5s", cap=None)) == 'Exponential("5s", factor=3, cap=None)'
    assert str(Linear("5s", "1s")) == 'Linear("5s", step="1s", cap="5m")'
    assert str(Constant(90)) == 'Constant("1m30s")'
    assert str(Schedule([5, "15s"])) == 'Schedule(["5s", "15s"])'


jitters = st.floats(0, 1) | st.sampled_from(["full", "equal", "decorrelated", "none"])


@given(jitters, st.floats(0, TEN_YEARS), st.floats(0, TEN_YEARS), st.floats(0, TEN_YEARS) | st.none(), st.integers())
def test_jitter_stays_within_its_bounds(jitter, seconds, base, previous, seed):
    low, high = bounds(jitter, seconds, base=base, cap=3600, previous=previous)
    assert 0 <= low <= high
    drawn = spread(jitter, seconds, base=base, cap=3600, previous=previous, rng=random.Random(seed))
    assert low <= drawn <= high * (1 + 1e-9)


@pytest.mark.parametrize(
    ("jitter", "expected"),
    [(0.25, (90, 150)), (0.0, (120, 120)), ("full", (0, 120)), ("equal", (60, 120)), ("none", (120, 120))],
)
def test_jitter_of_two_minutes(jitter, expected):
    assert bounds(jitter, 120, base=5, cap=300, previous=None) == expected


def test_decorrelated_jitter_is_the_formula_of_aws():
    assert bounds("decorrelated", 0, base=5, cap=300, previous=None) == (5, 15)
    assert bounds("decorrelated", 0, base=5, cap=300, previous=20) == (5, 60)
    assert bounds("decorrelated", 0, base=5, cap=300, previous=200) == (5, 300)
    assert bounds("decorrelated", 0, base=5, cap=3, previous=200) == (3, 3)
    assert bounds("decorrelated", 0, base=5, cap=300, previous=0) == (5, 5)


def test_jitter_is_spread_over_the_whole_range():
    rng = random.Random(4711)
    drawn = [spread(0.25, 120, base=5, cap=300, previous=None, rng=rng) for _ in range(1000)]
    assert min(drawn) < 92
    assert max(drawn) > 148
    assert 119 < sum(drawn) / len(drawn) < 121
