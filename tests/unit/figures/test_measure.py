"""What is read from figures: shares and retries of jobs, and nothing where nothing was counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.figures.measure import retries_average, retries_quantile, retry_rate, success_rate
from celery_guardrails.figures.summary import AttemptOutcome, TaskFigures

BUSY = TaskFigures(
    outcomes={"succeeded": 90, "dead": 8, "expected": 2, "retried": 60, "ignored": 7},
    succeeded_at_attempt={1: 80, 2: 6, 4: 4},
    dead_at_attempt={5: 8},
)


def test_of_nothing_there_is_no_share() -> None:
    for measure in (success_rate, retry_rate, retries_average):
        assert measure(TaskFigures()) is None
    assert retries_quantile(TaskFigures(), 0.95) is None
    assert success_rate(TaskFigures(outcomes={"retried": 5})) is None


def test_a_job_that_succeeds_late_counts_as_one_success() -> None:
    assert success_rate(BUSY) == 0.9
    assert retry_rate(BUSY) == pytest.approx(60 / 167)


def test_retries_are_counted_by_job() -> None:
    assert retries_average(BUSY) == pytest.approx((6 + 3 * 4 + 4 * 8) / 98)
    assert [retries_quantile(BUSY, share) for share in (0, 0.5, 0.85, 0.9, 0.95, 1)] == [0, 0, 1, 3, 4, 4]


@given(
    st.dictionaries(st.integers(1, 20), st.integers(1, 50), max_size=6),
    st.dictionaries(st.integers(1, 20), st.integers(1, 50), max_size=6),
    st.floats(0, 1),
)
def test_a_quantile_of_retries_is_that_of_the_jobs_in_a_row(
    well: dict[int, int], badly: dict[int, int], share: float
) -> None:
    figures = TaskFigures(succeeded_at_attempt=well, dead_at_attempt=badly)
    jobs = sorted(at - 1 for some in (well, badly) for at, count in some.items() for _ in range(count))
    found = retries_quantile(figures, share)
    if not jobs:
        assert found is None
        return
    assert found in jobs
    assert sum(job <= found for job in jobs) >= share * len(jobs) - 1e-9
    assert sum(job < found for job in jobs) < max(1, share * len(jobs)) + 1e-9


@given(st.dictionaries(st.sampled_from([each.value for each in AttemptOutcome]), st.integers(0, 10**6)))
def test_shares_are_between_none_and_all(outcomes: dict[str, int]) -> None:
    for measure in (success_rate, retry_rate):
        assert 0 <= (measure(TaskFigures(outcomes=outcomes)) or 0) <= 1
