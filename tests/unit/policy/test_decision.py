from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.errors import TransientError
from celery_guardrails.policy import (
    Attempt,
    Category,
    Constant,
    DeadLetter,
    Exponential,
    History,
    Linear,
    Policy,
    Reason,
    Requested,
    Retry,
    Schedule,
    decide,
    describe,
)
from celery_guardrails.policy.decision import decide_crash, decide_time_limit

NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)
TIMEOUT = describe(TimeoutError("late"), NOW)
BUG = describe(KeyError("x"), NOW)
FIRST = History(1, NOW)


def rng(seed=4711):
    return random.Random(seed)


def attempt(number, delay):
    return Attempt(number, NOW, NOW, "TimeoutError", "late", Category.TIMEOUT, "v1:x", "w1", delay)


def test_a_permanent_error_is_dead_at_once():
    decision = decide(Policy(), BUG, FIRST, NOW, rng())
    assert decision == DeadLetter(
        Reason.PERMANENT_ERROR,
        "KeyError is an error that another attempt would not mend (bug), and the policy names no other errors to retry",
    )


def test_the_last_attempt_is_dead():
    decision = decide(Policy(), TIMEOUT, History(5, NOW), NOW, rng())
    assert decision == DeadLetter(Reason.ATTEMPTS_EXHAUSTED, "5 of 5 attempts failed, the last with TimeoutError")
    bare = decide(Policy(), BUG, History(5, NOW), NOW, rng(), requested=Requested(bare=True))
    assert bare == DeadLetter(Reason.ATTEMPTS_EXHAUSTED, "the task asked for another attempt, but 5 of 5 are used up")
    assert "7 attempts failed, 5 allowed" in decide(Policy(), TIMEOUT, History(7, NOW), NOW, rng()).explanation
    assert isinstance(decide(Policy(max_attempts=1), TIMEOUT, FIRST, NOW, rng()), DeadLetter)
    assert isinstance(decide(Policy(max_attempts=None), TIMEOUT, History(9999, NOW), NOW, rng()), Retry)


def test_a_retry_that_would_start_after_the_deadline_is_not_scheduled():
    policy = Policy(deadline="10m", backoff=Constant("1m"), jitter="none")
    on_time = decide(policy, TIMEOUT, FIRST, NOW + timedelta(minutes=9), rng())
    assert on_time == Retry(timedelta(minutes=1), "attempt 2 of 5 in 1 min after TimeoutError: late (backoff)")
    late = decide(policy, TIMEOUT, FIRST, NOW + timedelta(minutes=9, microseconds=1), rng())
    assert isinstance(late, DeadLetter)
    assert str(late.reason) == "deadline_exceeded"
    assert late.reason is Reason.DEADLINE_EXCEEDED
    text = "9 min after the first publish, a retry in 1 min (backoff) would start after the deadline of 10 min"
    assert late.explanation == text
    assert isinstance(decide(Policy(deadline=None), TIMEOUT, FIRST, NOW + timedelta(days=900), rng()), Retry)


def test_a_clock_behind_the_publisher_s_is_survived():
    assert isinstance(decide(Policy(), TIMEOUT, FIRST, NOW - timedelta(hours=1), rng()), Retry)
    assert isinstance(decide(Policy(deadline=0), TIMEOUT, FIRST, NOW, rng()), DeadLetter)


def test_retry_after_is_the_least_delay():
    asked = replace(TIMEOUT, retry_after=600.0)
    policy = Policy(jitter="none")
    assert decide(policy, asked, FIRST, NOW, rng()).delay == timedelta(minutes=10)
    assert "Retry-After" in decide(policy, asked, FIRST, NOW, rng()).reason
    assert decide(policy, replace(TIMEOUT, retry_after=1.0), FIRST, NOW, rng()).delay == timedelta(seconds=5)
    ignoring = Policy(jitter="none", respect_retry_after=False)
    assert decide(ignoring, asked, FIRST, NOW, rng()).delay == timedelta(seconds=5)
    assert decide(policy, describe(TransientError(retry_after=90), NOW), FIRST, NOW, rng()).delay.seconds == 90


@pytest.mark.parametrize("seconds", [7201.0, 1e300])
def test_retry_after_past_the_deadline_is_dead(seconds):
    decision = decide(Policy(), replace(TIMEOUT, retry_after=seconds), FIRST, NOW, rng())
    assert decision.reason is Reason.DEADLINE_EXCEEDED
    assert decide(Policy(deadline=None), replace(TIMEOUT, retry_after=1e300), FIRST, NOW, rng()).delay.days == 3650


def test_a_backoff_of_its_own_per_error():
    policy = Policy(
        jitter="none",
        backoff=Constant(1),
        backoff_for={"timeout": Constant(2), OSError: Constant(3), "ConnectionError": Constant(4)},
    )
    assert decide(policy, describe(ConnectionResetError(), NOW), FIRST, NOW, rng()).delay.seconds == 4
    assert decide(policy, TIMEOUT, FIRST, NOW, rng()).delay.seconds == 3
    assert decide(policy, replace(TIMEOUT, mro=("a.B",)), FIRST, NOW, rng()).delay.seconds == 2


def test_a_retry_says_its_error_in_one_bounded_line():
    long = describe(TimeoutError("first line\n" + "x" * 5000), NOW)
    reason = decide(Policy(jitter="none"), long, FIRST, NOW, rng()).reason
    assert reason.startswith("attempt 2 of 5 in 5 s after TimeoutError: first line xxx")
    assert reason.endswith("xxx... (backoff)")
    assert len(reason) < 400
    forged = describe(TimeoutError("no\x1b[31m\u202e answer"), NOW)
    assert "after TimeoutError: no [31m answer (backoff)" in decide(Policy(), forged, FIRST, NOW, rng()).reason
    silent = describe(TimeoutError(), NOW)
    assert decide(Policy(jitter="none"), silent, FIRST, NOW, rng()).reason.endswith("after TimeoutError (backoff)")


def test_a_retry_that_names_no_error_says_none():
    policy = Policy(jitter="none")
    bare = decide(policy, BUG, FIRST, NOW, rng(), requested=Requested(bare=True))
    assert bare.reason == "attempt 2 of 5 in 5 s, asked for by the task (backoff)"
    delayed = decide(policy, BUG, FIRST, NOW, rng(), requested=Requested(timedelta(seconds=42), bare=True))
    assert delayed.reason == "attempt 2 of 5 in 42 s (the task asked for this delay)"


def test_decorrelated_jitter_goes_by_the_last_delay():
    policy = Policy(jitter="decorrelated", backoff=Exponential("5s", cap="5m"))
    history = History(2, NOW, (attempt(1, 60.0),))
    delays = [decide(policy, TIMEOUT, history, NOW, rng(seed)).delay.total_seconds() for seed in range(200)]
    assert min(delays) >= 5
    assert 15 < max(delays) <= 180
    first = [decide(policy, TIMEOUT, FIRST, NOW, rng(seed)).delay.total_seconds() for seed in range(200)]
    assert max(first) <= 15
    for form in (Schedule([5, 15]), Constant(5), Linear(5), lambda attempt, failure: 5):
        assert decide(policy.model_copy(update={"backoff": form}), TIMEOUT, history, NOW, rng()).delay.seconds >= 5


def test_what_the_task_asks_for_skips_the_kind_of_error():
    policy = Policy(jitter="none", give_up_on=(KeyError,))
    assert decide(policy, BUG, FIRST, NOW, rng(), requested=Requested()).delay == timedelta(seconds=5)
    asked = Requested(delay=timedelta(seconds=42))
    decision = decide(policy, replace(BUG, retry_after=60.0), FIRST, NOW, rng(), requested=asked)
    assert decision == Retry(
        timedelta(seconds=42), "attempt 2 of 5 in 42 s after KeyError: 'x' (the task asked for this delay)"
    )
    assert decide(policy, BUG, FIRST, NOW, rng(), requested=Requested(timedelta(seconds=-1))).delay == timedelta(0)


@pytest.mark.parametrize(
    ("requested", "number", "reason"),
    [
        (Requested(timedelta(1)), 1, Reason.DEADLINE_EXCEEDED),
        (Requested(timedelta(0)), 5, Reason.ATTEMPTS_EXHAUSTED),
        (Requested(max_attempts=2), 2, Reason.ATTEMPTS_EXHAUSTED),
        (Requested(max_attempts=9), 5, Reason.ATTEMPTS_EXHAUSTED),
    ],
)
def test_what_the_task_asks_for_stays_within_attempts_and_deadline(requested, number, reason):
    assert decide(Policy(), BUG, History(number, NOW), NOW, rng(), requested=requested).reason is reason


durations = st.timedeltas(timedelta(0), timedelta(days=3650))
policies = st.builds(
    Policy,
    retry_on=st.sampled_from([None, (TimeoutError,)]),
    max_attempts=st.none() | st.integers(1, 10_000),
    deadline=durations,
    backoff=st.one_of(
        st.builds(Exponential, durations, st.floats(1, 1e9), durations | st.none()),
        st.builds(Constant, durations),
        st.builds(Linear, durations, durations, durations | st.none()),
        st.just(lambda attempt, failure: attempt**attempt),
    ),
    jitter=st.floats(0, 1) | st.sampled_from(["full", "equal", "decorrelated", "none"]),
)
requests = st.none() | st.builds(
    Requested, delay=st.none() | durations, max_attempts=st.none() | st.integers(1, 10_000)
)


@given(
    policy=policies,
    number=st.integers(1, 20_000),
    age=durations,
    retry_after=st.none() | st.floats(0, 1e308),
    previous=st.none() | st.floats(0, 1e9),
    requested=requests,
    seed=st.integers(),
)
def test_a_retry_never_starts_after_the_deadline_nor_exceeds_the_attempts(
    policy, number, age, retry_after, previous, requested, seed
):
    history = History(number, NOW, (attempt(number - 1, previous),) if number > 1 else ())
    now = NOW + age
    decision = decide(policy, replace(TIMEOUT, retry_after=retry_after), history, now, rng(seed), requested=requested)
    if isinstance(decision, Retry):
        assert decision.delay >= timedelta(0)
        assert now + decision.delay <= NOW + policy.deadline
        assert policy.max_attempts is None or number < policy.max_attempts
    else:
        assert decision.reason in (Reason.ATTEMPTS_EXHAUSTED, Reason.DEADLINE_EXCEEDED)
        assert decision.explanation


@given(policy=policies, seed=st.integers())
def test_a_task_that_always_fails_ends_within_its_attempts(policy, seed):
    policy = policy.model_copy(update={"max_attempts": min(policy.max_attempts or 20, 20)})
    source, now, number, runs = rng(seed), NOW, 0, 0
    while True:
        number, runs = number + 1, runs + 1
        decision = decide(policy, TIMEOUT, History(number, NOW), now, source)
        if isinstance(decision, DeadLetter):
            break
        now += decision.delay
    assert runs <= policy.max_attempts
    assert now <= NOW + policy.deadline


LOST = describe(WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL) Job: 1."), NOW)
LIMIT = describe(TimeLimitExceeded(30), NOW)
STEADY = Policy(max_attempts=None, max_crashes=3, backoff=Constant("1m"), jitter="none")


def crash(policy, crashes, *, history=FIRST, now=NOW, rerun=True):
    return decide_crash(policy, LOST, history, crashes, now, rng(), rerun=rerun)


def test_a_task_whose_worker_died_runs_again_until_max_crashes():
    first, second = crash(STEADY, 1), crash(STEADY, 2, history=History(2, NOW))
    assert first == Retry(
        timedelta(minutes=1),
        "attempt 2 in 1 min after billiard.exceptions.WorkerLostError: Worker exited prematurely: "
        "signal 9 (SIGKILL) Job: 1. (backoff), worker loss 1 of 3",
    )
    assert isinstance(second, Retry)
    assert crash(STEADY, 3, history=History(3, NOW)) == DeadLetter(
        Reason.WORKER_LOST, "it was running in 3 workers when they were lost; max_crashes is 3"
    )


def test_a_worker_loss_is_bounded_by_attempts_and_deadline_too():
    spent = crash(STEADY.model_copy(update={"max_attempts": 2}), 1, history=History(2, NOW))
    late = crash(STEADY, 1, now=NOW + timedelta(hours=3))
    assert spent == DeadLetter(
        Reason.WORKER_LOST,
        "its worker was lost while it ran; 2 of 2 attempts failed, the last with billiard.exceptions.WorkerLostError",
    )
    assert late.reason is Reason.WORKER_LOST
    assert "deadline" in late.explanation


def test_a_worker_loss_does_not_ask_which_errors_are_retried():
    assert isinstance(crash(Policy(retry_on=(KeyError,), give_up_on=(WorkerLostError,)), 1), Retry)


def test_what_runs_at_most_once_is_dead_at_its_first_worker_loss():
    assert crash(STEADY, 1, rerun=False) == DeadLetter(
        Reason.WORKER_LOST, "its worker was lost while it ran, and it runs at most once (acks early)"
    )


def test_a_hard_time_limit_is_final_unless_the_policy_names_it():
    final = decide_time_limit(STEADY, LIMIT, FIRST, NOW, rng())
    named = Policy(retry_on=(TimeLimitExceeded,), max_attempts=2, backoff=Constant(1), jitter="none")
    assert final.reason is Reason.TIME_LIMIT
    assert decide_time_limit(named, LIMIT, FIRST, NOW, rng()).delay == timedelta(seconds=1)
    assert decide_time_limit(named, LIMIT, History(2, NOW), NOW, rng()).reason is Reason.ATTEMPTS_EXHAUSTED


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.none() | st.integers(1, 9), st.booleans(),
    st.timedeltas(timedelta(0), timedelta(hours=4)),
)  # fmt: skip
def test_a_worker_loss_ends_as_a_bounded_retry_or_as_worker_lost(crashes, most, attempt, limit, rerun, age):
    policy = STEADY.model_copy(update={"max_crashes": most, "max_attempts": limit})
    decision = crash(policy, crashes, history=History(attempt, NOW - age), rerun=rerun)
    if isinstance(decision, Retry):
        assert rerun
        assert crashes < most
        assert limit is None or attempt < limit
        assert age + decision.delay <= policy.deadline
    else:
        assert decision.reason is Reason.WORKER_LOST
