"""The figures: each summary counts once, in its minute, its hour and its task's totals, whoever else adds to them."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from celery_guardrails.errors import StoreError
from celery_guardrails.figures.histogram import Histogram
from celery_guardrails.figures.summary import Summary, TaskFigures
from celery_guardrails.letters.record import SELF_TEST
from celery_guardrails.recovery.retention import prune_pass
from celery_guardrails.store import audit, figure_query, retention
from celery_guardrails.store.engine import Store
from celery_guardrails.store.figure import COUNTED_FOR, HOUR, MINUTE, Counted, count
from tests.contract.store.conftest import NOW
from tests.contract.store.test_concurrency import WORKERS, race

DAY = timedelta(days=1)
KEEP = {"dead": 90 * DAY, "recovered": 14 * DAY, "discarded": 30 * DAY, "audit": 400 * DAY}


def summary(at: datetime = NOW, /, lasted: float = 10, **fields: Any) -> Summary:
    """A summary whose period ends at an instant."""
    ended = at.timestamp()
    tasks = fields.pop("tasks", None) or {"shop.mail": figures(succeeded=1)}
    values = {"id": str(uuid4()), "environment": "production", "worker": "w@host", "pid": 7, **fields}
    return Summary(started_at=ended - lasted, ended_at=ended, tasks=tasks, **values)


def figures(last_started_at: datetime | None = None, **outcomes: int) -> TaskFigures:
    """Figures of attempts, each of which ran for 0.2 s."""
    made = TaskFigures(outcomes=dict(outcomes), succeeded_at_attempt={1: outcomes.get("succeeded", 0)})
    made.run_time.add(0.2, sum(outcomes.values()))
    if last_started_at is not None:
        made.last_started_at = last_started_at.timestamp()
    return made


def add(store: Store, *summaries: Summary, now: datetime = NOW) -> Counted:
    with store.begin() as conn:
        return count(conn, summaries, now)


def patiently(store: Store, *summaries: Summary) -> None:
    """Add them as a guardian does, which tries again while another one holds the archive."""
    while True:
        try:
            add(store, *summaries)
        except StoreError as exc:
            if not exc.away:
                raise
        else:
            return


def outcomes(store: Store, start: datetime, end: datetime, **wanted: Any) -> dict[str, dict[str, int]]:
    with store.read() as conn:
        return {task: found.outcomes for (_, task), found in figure_query.between(conn, start, end, **wanted).items()}


def test_what_was_counted_is_found_by_minute_by_hour_and_in_all(store: Store) -> None:
    early = NOW - timedelta(minutes=59)
    given = [summary(early), summary(), summary(tasks={"shop.pay": figures(dead=2, retried=3)})]
    assert add(store, *given) == Counted(tuple(sorted(given, key=lambda one: one.id)))
    last = (NOW - MINUTE, NOW)  # the middle of a period that ends at 12:00 is in 11:59
    both = {"shop.mail": {"succeeded": 1}, "shop.pay": {"dead": 2, "retried": 3}}
    assert outcomes(store, *last) == both
    assert outcomes(store, NOW - HOUR, NOW) == both | {"shop.mail": {"succeeded": 2}}
    assert outcomes(store, NOW - HOUR, NOW, resolution=HOUR) == both | {"shop.mail": {"succeeded": 2}}
    assert outcomes(store, NOW - DAY, NOW, task="shop.pay") == {"shop.pay": both["shop.pay"]}
    assert outcomes(store, NOW - DAY, NOW, environment="staging") == {}
    with store.read() as conn:
        found = {total.task: total for total in figure_query.totals(conn)}
        assert found["shop.mail"].figures.outcomes == {"succeeded": 2}
        assert found["shop.mail"].figures.run_time == Histogram({5: 2}, pytest.approx(0.4))
        assert found["shop.mail"].figures.succeeded_at_attempt == {1: 2}
        assert figure_query.environments(conn) == {"production": NOW}


def test_a_summary_counts_once_in_a_batch_and_in_another_batch(store: Store) -> None:
    twice = summary()
    assert (add(store, twice, twice).known, add(store, twice, summary()).known) == (1, 1)
    assert outcomes(store, NOW - HOUR, NOW) == {"shop.mail": {"succeeded": 2}}


def test_what_is_too_old_or_of_a_clock_far_ahead_is_left_out_and_said(store: Store) -> None:
    odd = [summary(NOW - COUNTED_FOR), summary(NOW + 2 * DAY)]
    odd[0].id = "x" * 500
    for value in (math.nan, math.inf, -math.inf):
        odd.append(summary())
        odd[-1].ended_at = value
    assert add(store, *odd, summary(NOW - COUNTED_FOR + timedelta(seconds=1))).late == 5
    assert outcomes(store, NOW - DAY, NOW) == {"shop.mail": {"succeeded": 1}}


def test_an_id_is_remembered_for_as_long_as_its_summary_would_count(store: Store) -> None:
    ahead = summary(NOW + timedelta(hours=20))
    add(store, ahead, summary())
    for later in (COUNTED_FOR + timedelta(seconds=1), timedelta(hours=25)):
        prune_pass(store, KEEP, "guardian", NOW + later, timer=lambda: 0.0)
        assert add(store, ahead, now=NOW + later).known == 1
    end = ahead.ended_at - NOW.timestamp() + COUNTED_FOR.total_seconds()
    assert add(store, ahead, now=NOW + timedelta(seconds=end)).late == 1


def test_a_period_of_a_clock_that_is_ahead_counts_now(store: Store) -> None:
    add(store, summary(NOW + timedelta(hours=3), tasks={"shop.mail": figures(NOW + timedelta(hours=3), succeeded=1)}))
    assert outcomes(store, NOW, NOW + MINUTE) == {"shop.mail": {"succeeded": 1}}
    with store.read() as conn:
        (total,) = figure_query.totals(conn)
    assert (total.last_started_at, total.last_succeeded_at) == (NOW, None)


def test_a_task_keeps_its_latest_start_whatever_comes_later(store: Store) -> None:
    for at in (NOW - HOUR, NOW - timedelta(minutes=1), NOW - timedelta(minutes=30)):
        add(store, summary(at, tasks={"shop.mail": figures(at, retried=1)}))
    with store.read() as conn:
        (total,) = figure_query.totals(conn, environment="production", task="shop.mail")
    assert total.last_started_at == NOW - timedelta(minutes=1)


def test_a_series_has_empty_buckets_and_ends_with_the_present_one(store: Store) -> None:
    add(store, summary(NOW - timedelta(minutes=2)), summary(NOW + timedelta(seconds=30)), now=NOW + MINUTE)
    with store.read() as conn:
        found = figure_query.series(conn, NOW + timedelta(seconds=59), 5, task="shop.mail")
        alien = figure_query.series(conn, NOW, 2, environment="staging", resolution=HOUR)
    assert [sum(each.figures.outcomes.values()) for each in found] == [0, 1, 0, 0, 1]
    assert [each.start_at for each in found][-1] == NOW
    assert [each.figures for each in alien] == [TaskFigures(), TaskFigures()]


def test_what_is_usual_is_read_from_the_same_part_of_the_days_before(store: Store) -> None:
    start, end = NOW - timedelta(minutes=90), NOW - timedelta(minutes=60)  # the second half of 10:00 to 11:00
    first = NOW - 6 * DAY
    add(store, summary(first, tasks={"shop.mail": figures(succeeded=5)}), now=first)
    for day, number in ((5, 400), (2, 20), (1, 40)):
        at = NOW - day * DAY - timedelta(minutes=70)
        add(store, summary(at, tasks={"shop.mail": figures(succeeded=number)}), now=at)
    with store.read() as conn:
        usual = figure_query.usual(conn, start, end, environment="production", task="shop.mail")
        unknown = figure_query.usual(conn, start, end, environment="production", task="shop.unknown")
    assert (usual.days, usual.median) == ((20, 10, 0, 0, 200), 10)
    assert (unknown.days, unknown.median) == ((), 0)


def test_the_self_test_leaves_no_figures(store: Store) -> None:
    add(store, summary(tasks={SELF_TEST: figures(dead=1)}))
    assert outcomes(store, NOW - HOUR, NOW) == {}


def test_odd_and_long_names_are_counted_apart(store: Store) -> None:
    names = ["a" * 3000, "a" * 2999 + "b", "nul\0", "\ud800half", "Ü" * 500]
    add(store, summary(environment="e" * 3000, tasks={name: figures(succeeded=1) for name in names}))
    assert len(outcomes(store, NOW - HOUR, NOW, environment="e" * 3000)) == len(names)
    assert len(outcomes(store, NOW - HOUR, NOW, task=names[0])) == 1


def test_many_guardians_add_to_the_same_rows_at_the_same_time(url: str, store: Store) -> None:
    tasks = [f"shop.task{number}" for number in range(20)]
    shared = [summary(tasks={task: figures(succeeded=1) for task in tasks}) for _ in range(5)]

    def act(own: Store, number: int) -> None:
        for each in shared if number % 2 else shared[::-1]:
            order = tasks if number % 2 else tasks[::-1]
            patiently(own, each, summary(tasks={task: figures(retried=1) for task in order}))

    race(url, act)
    wanted = {task: {"succeeded": len(shared), "retried": WORKERS * len(shared)} for task in tasks}
    assert outcomes(store, NOW - HOUR, NOW) == wanted
    assert outcomes(store, NOW - HOUR, NOW, resolution=HOUR) == wanted
    with store.read() as conn:
        assert {total.task: total.figures.outcomes for total in figure_query.totals(conn)} == wanted


def test_minutes_hours_and_totals_are_each_kept_for_a_time_of_their_own(store: Store) -> None:
    for age in (timedelta(hours=49), timedelta(hours=47), 91 * DAY, 89 * DAY):
        add(store, summary(NOW - age), now=NOW - age)
    pruned = prune_pass(store, KEEP, "guardian", NOW, timer=lambda: 0.0)
    # the last two are older than 48 hours, too
    assert dict(pruned.counts) == {"minute_figures": 3, "hour_figures": 1, "summaries": 4}
    with store.read() as conn:
        assert audit.entries(conn) == []
        assert retention.due(conn, {"task_figures": 400 * DAY}, NOW) == {"task_figures": 0}
    assert outcomes(store, NOW - 100 * DAY, NOW) == {"shop.mail": {"succeeded": 3}}
    gone = prune_pass(store, KEEP, "guardian", NOW + 401 * DAY, timer=lambda: 0.0)
    assert gone.counts["task_figures"] == 1


def test_totals_are_kept_for_ever_where_one_kind_is(store: Store) -> None:
    add(store, summary())
    prune_pass(store, KEEP | {"audit": None}, "guardian", NOW + 4000 * DAY, timer=lambda: 0.0)
    with store.read() as conn:
        assert len(figure_query.totals(conn)) == 1
