"""A week of incidents through the present settings: what would have been posted."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from celery_guardrails.alerts.condition import Condition
from celery_guardrails.alerts.intent import Notice
from celery_guardrails.alerts.rules import Rules
from celery_guardrails.alerts.simulation import Simulation
from tests.unit.alerts.alert_play import T0, death


def played(events, rules=Rules(), days=7):  # noqa: B008 - frozen
    said = Simulation(lambda _: rules, rules.group_by).play(events, T0 + timedelta(days=days))
    return [(notified.at, notified.group.task, notified.intent.notice) for notified in said if notified.intent.is_loud]


def burst(start, count, task="shop.a", gap=1):
    return [death(f"{task}{start}{n}", T0 + start + timedelta(seconds=n * gap), task=task) for n in range(count)]


def test_it_says_what_a_guardian_would_have_posted():
    events = burst(timedelta(0), 12) + burst(timedelta(days=1), 30, "shop.b", gap=20)
    assert played(events) == [
        (T0 + timedelta(seconds=30), "shop.a", Notice.OPENED),
        (T0 + timedelta(days=1, seconds=30), "shop.b", Notice.OPENED),
        (T0 + timedelta(days=1, seconds=330), "shop.b", Notice.WORSE_TOTAL),
    ]


def test_a_higher_threshold_is_fewer_alerts():
    events = burst(timedelta(0), 12) + burst(timedelta(days=1), 30, "shop.b", gap=5)
    few = Rules(count=20)
    assert [task for _, task, _ in played(events, few)] == ["shop.b"]


def test_a_storm_is_one_digest():
    events = [death(number, T0, task=f"shop.t{number}") for number in range(500)]
    assert Counter(notice for _, _, notice in played(events)) == {Notice.DIGEST: 1}


def test_conditions_are_played_too():
    begins = Condition("c1", "overdue", "production", "shop.a", T0, True, "It is late")
    ends = Condition("c2", "overdue", "production", "shop.a", T0 + timedelta(hours=1), False)
    assert [notice for _, _, notice in played([begins, ends])] == [Notice.OPENED]


def test_nothing_happened():
    assert played([]) == []


def test_a_week_of_ten_thousand_letters():
    events = [each for hour in range(0, 168, 6) for each in burst(timedelta(hours=hour), 360, gap=2)]
    assert len(events) == 10_080
    said = played(sorted(events, key=lambda event: event.at))
    assert Counter(notice for _, _, notice in said)[Notice.OPENED] == 28
    assert len(said) < 28 * 8
