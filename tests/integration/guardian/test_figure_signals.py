"""The signals of the figures, on every database: what opens each, what does not, and when it is over."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from uuid import uuid4

import pytest

from celery_guardrails.figures.histogram import Histogram
from celery_guardrails.figures.summary import Summary, TaskFigures
from celery_guardrails.guardian.figure_signals import ErrorRate, FailedAttempts, QueueLatency, TaskFacts, Throughput
from celery_guardrails.policy.alert import Limits, limits
from celery_guardrails.policy.policy import Policy
from celery_guardrails.policy.threshold import (
    ErrorRateThreshold,
    FailedAttemptsThreshold,
    QueueLatencyThreshold,
    ThroughputThreshold,
)
from celery_guardrails.store.engine import Store
from celery_guardrails.store.figure import count

NOW = datetime(2026, 11, 23, 12, 0, 30, tzinfo=timezone.utc)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
OWNER = TaskFacts(owner="mail team", runbook="https://wiki.example/mail", max_latency=timedelta(seconds=30))


def add(store: Store, at: datetime, task: str = "shop.mail", delay: float | None = None, **outcomes: int) -> None:
    """Figures of attempts that ended at an instant, as a worker sends them soon after."""
    delays = Histogram()
    if delay is not None:
        delays.add(delay, sum(outcomes.values()))
    figures = TaskFigures(outcomes=dict(outcomes), start_delay=delays)
    made = Summary(str(uuid4()), "production", "w@h", 1, at.timestamp() - 10, at.timestamp(), tasks={task: figures})
    with store.begin() as conn:
        assert count(conn, [made], at).fresh


def seen(now: datetime) -> bool:
    """Nothing explains what the figures say."""
    return False


def summaries(found):
    return {finding.task: finding.summary for finding in found}


def test_many_failed_attempts_are_a_finding_where_somebody_asks_for_it(store):
    add(store, NOW - MINUTE, retried=15, dead=5, succeeded=20)
    add(store, NOW - MINUTE, "shop.busy", retried=30, succeeded=31)
    add(store, NOW - MINUTE, "shop.few", retried=19)
    add(store, NOW - 10 * MINUTE, "shop.before", retried=100)
    asked = FailedAttempts(store, "production", lambda _: OWNER, Limits(FailedAttemptsThreshold(enabled=True)))
    (finding,) = asked.find(NOW)
    assert (finding.task, finding.owner, finding.runbook) == ("shop.mail", "mail team", "https://wiki.example/mail")
    assert finding.summary == "20 of 40 attempts failed in 5 min"
    assert FailedAttempts(store, "production", lambda _: OWNER, Limits(FailedAttemptsThreshold())).find(NOW) == []


def test_errors_that_a_task_expects_are_no_failure(store):
    add(store, NOW - MINUTE, expected=50, succeeded=1)
    asked = FailedAttempts(store, "production", lambda _: OWNER, Limits(FailedAttemptsThreshold(enabled=True)))
    assert asked.find(NOW) == []


def rate(store, own=None, **limits):
    return ErrorRate(store, "production", lambda _: OWNER, Limits(ErrorRateThreshold(**limits), own or {}))


def test_a_task_that_fails_more_often_than_usual_both_lately_and_for_an_hour(store):
    for hour in range(23, 1, -1):
        add(store, NOW - hour * HOUR, succeeded=95, retried=5)
    add(store, NOW - 30 * MINUTE, succeeded=80, dead=20)
    add(store, NOW - 2 * MINUTE, succeeded=8, dead=2)
    assert summaries(rate(store).find(NOW)) == {
        "shop.mail": "20% of its attempts failed in 5 min, 20% in an hour; usually 5% do"
    }


@pytest.mark.parametrize(
    ("lately", "hour", "usual"),
    [
        ({"succeeded": 20}, {"dead": 50, "succeeded": 50}, {"succeeded": 100}),  # it is over
        ({"dead": 5}, {"succeeded": 1000}, {"succeeded": 100}),  # it has only begun
        ({"dead": 5, "succeeded": 20}, {"dead": 25, "succeeded": 75}, {"dead": 20, "succeeded": 80}),  # it is as ever
        ({"dead": 5}, {"dead": 14}, {"succeeded": 100}),  # too few to speak of
    ],
)
def test_what_is_no_error_rate(store, lately, hour, usual):
    add(store, NOW - 5 * HOUR, **usual)
    add(store, NOW - 30 * MINUTE, **hour)
    add(store, NOW - 2 * MINUTE, **lately)
    assert rate(store).find(NOW) == []


def test_a_new_task_has_no_usual_rate(store):
    add(store, NOW - 2 * MINUTE, succeeded=5, dead=45)
    assert list(summaries(rate(store).find(NOW))) == ["shop.mail"]


def test_starts_that_are_late_at_two_looks_in_a_row(store):
    looking = QueueLatency(store, "production", lambda _: OWNER, Limits(QueueLatencyThreshold()), seen)
    add(store, NOW - MINUTE, succeeded=20, delay=50)
    add(store, NOW - MINUTE, "shop.quick", succeeded=20, delay=1)
    assert looking.find(NOW) == []
    add(store, NOW, succeeded=20, delay=50)
    (finding,) = looking.find(NOW + MINUTE)
    assert finding.task == "shop.mail"
    assert "after it is due; its policy allows 30 s" in finding.summary
    add(store, NOW + 3 * MINUTE, succeeded=20, delay=1)
    assert looking.find(NOW + 4 * MINUTE) == []
    add(store, NOW + 5 * MINUTE, succeeded=20, delay=50)
    assert looking.find(NOW + 5 * MINUTE) == []


def test_late_starts_that_something_else_explains_are_looked_for_anew_afterwards(store):
    explained = [False]
    looking = QueueLatency(
        store, "production", lambda _: OWNER, Limits(QueueLatencyThreshold()), lambda _: explained[0]
    )
    for minute in range(4):
        add(store, NOW + (minute - 1) * MINUTE, succeeded=20, delay=50)
        explained[0] = minute == 1
        assert (looking.find(NOW + minute * MINUTE) or None) is None or minute == 3


def throughput(store, away=False):
    return Throughput(store, "production", lambda _: OWNER, Limits(ThroughputThreshold()), lambda now: away)


def test_less_than_half_of_what_is_usual_at_this_time(store):
    for day in (4, 3, 2, 1):
        add(store, NOW - day * DAY - 5 * MINUTE, succeeded=200)
        add(store, NOW - day * DAY - 5 * MINUTE, "shop.rare", succeeded=5)
        add(store, NOW - day * DAY - 5 * MINUTE, "shop.steady", succeeded=200)
    add(store, NOW - 10 * MINUTE, succeeded=3)
    add(store, NOW - 10 * MINUTE, "shop.steady", succeeded=300)
    found = summaries(throughput(store).find(NOW))
    assert list(found) == ["shop.mail"]
    assert found["shop.mail"].startswith("3 attempts ended in 30 min; usually about ")
    assert throughput(store, away=True).find(NOW) is None


def test_a_task_that_is_new_has_nothing_usual(store):
    for day in (2, 1):
        add(store, NOW - day * DAY - 5 * MINUTE, succeeded=200)
    assert throughput(store).find(NOW) == []


def test_figures_of_another_environment_are_not_ours(store):
    add(store, NOW - MINUTE, retried=100)
    other = FailedAttempts(store, "staging", lambda _: OWNER, Limits(FailedAttemptsThreshold(enabled=True)))
    assert other.find(NOW) == []


def own(**words):
    """What the policies of two tasks say, as the guardian reads it; `shop.usual` says nothing."""
    return {task.replace("_", "."): Policy(alert=alert).alert for task, alert in words.items()}


def test_a_task_has_failed_attempts_of_its_own(store):
    for task in ("shop.mail", "shop.few", "shop.long", "shop.usual", "shop.not"):
        add(store, NOW - 8 * MINUTE, task, retried=4, succeeded=1)
        add(store, NOW - MINUTE, task, retried=4, succeeded=1)
    words = own(
        shop_mail={"failed_attempts": {"count": 4}},
        shop_few={"failed_attempts": {"count": 5}},
        shop_long={"failed_attempts": {"count": 8, "within": "10m"}},
        shop_not={"failed_attempts": {"count": 1, "enabled": False}},
    )
    allowed = limits(FailedAttemptsThreshold(), "failed_attempts", words)
    found = summaries(FailedAttempts(store, "production", lambda _: OWNER, allowed).find(NOW))
    assert found == {
        "shop.mail": "4 of 5 attempts failed in 5 min",
        "shop.long": "8 of 10 attempts failed in 10 min",
    }
    allowed = limits(FailedAttemptsThreshold(enabled=True, count=1), "failed_attempts", own(shop_mail=False))
    found = summaries(FailedAttempts(store, "production", lambda _: OWNER, allowed).find(NOW))
    assert sorted(found) == ["shop.few", "shop.long", "shop.not", "shop.usual"]


def test_a_task_has_an_error_rate_of_its_own(store):
    for task in ("shop.mail", "shop.long", "shop.usual", "shop.muted", "shop.silent"):
        add(store, NOW - 8 * MINUTE, task, dead=10)
        add(store, NOW - 2 * MINUTE, task, succeeded=18, dead=2)
    words = own(
        shop_mail={"error_rate": {"ratio": 0.5}},
        shop_long={"error_rate": {"ratio": 0.4, "within": "15m"}},
        shop_muted={"error_rate": False},
        shop_silent=False,
    )
    allowed = limits(ErrorRateThreshold(), "error_rate", words)
    assert sorted(summaries(rate(store, allowed.own).find(NOW))) == ["shop.long", "shop.usual"]


def test_a_task_has_a_patience_and_an_amount_of_its_own(store):
    for task in ("shop.mail", "shop.usual", "shop.muted"):
        for day in (4, 3, 2, 1):
            add(store, NOW - day * DAY - 5 * MINUTE, task, succeeded=200)
        add(store, NOW - MINUTE, task, succeeded=20, delay=50)
    words = own(
        shop_mail={"queue_latency": {"evaluations": 1}, "throughput": {"ratio": 0.01}},
        shop_muted={"queue_latency": False, "throughput": False},
    )
    late = QueueLatency(
        store, "production", lambda _: OWNER, limits(QueueLatencyThreshold(), "queue_latency", words), seen
    )
    assert list(summaries(late.find(NOW))) == ["shop.mail"]
    assert sorted(summaries(late.find(NOW))) == ["shop.mail", "shop.usual"]
    less = limits(ThroughputThreshold(), "throughput", words)
    assert list(summaries(Throughput(store, "production", lambda _: OWNER, less, seen).find(NOW))) == ["shop.usual"]
