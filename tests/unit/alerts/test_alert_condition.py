"""Signals that hold for a while: they open once, stay while they hold, and resolve when they end."""

from __future__ import annotations

from datetime import timedelta

import pytest

from celery_guardrails.alerts.condition import OWN_HEALTH, SIGNALS, Condition
from celery_guardrails.alerts.engine import next_due
from celery_guardrails.alerts.event import group_key
from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.alerts.render import headline, render
from celery_guardrails.policy.policy import Policy
from tests.unit.alerts.alert_play import OPENED, REOPENED, RESOLVED, T0, TOKEN, Play, death, opened


def test_a_condition_opens_once_and_resolves_when_it_ends():
    play = Play().hold()
    assert play.tick(30) == OPENED
    for _ in range(10):
        assert play.tick(600) == []
    assert play.group.state is GroupState.OPEN
    assert next_due(play.group, play.now, TOKEN) is not None
    play.hold(holds=False, summary="")
    assert play.tick(59) == [] or play.group.state is not GroupState.RESOLVED
    assert play.tick(1)[-1] == RESOLVED[-1]
    assert "over" in headline(play.group)


def test_it_comes_back_in_the_same_message():
    play = Play().hold()
    assert play.tick(30) == OPENED
    play.hold(holds=False).tick(60)
    assert play.group.state is GroupState.RESOLVED
    play.tick(600)
    play.hold()
    assert play.tick(30) == REOPENED


def test_the_end_of_what_nobody_knew_opens_nothing():
    play = Play().hold(holds=False)
    assert play.tick(3600) == []
    assert play.group.state is GroupState.IDLE


def test_an_older_change_that_comes_late_changes_nothing():
    play = Play().hold()
    play.tick(30)
    late = Condition("c0", "overdue", "production", play.group.task, T0 - timedelta(hours=1), holds=False)
    play.happen(late)
    assert play.group.holds


def test_a_condition_is_over_and_letters_go_on():
    play = opened().hold()
    play.tick(301)
    play.hold(holds=False)
    assert play.tick(100) != RESOLVED
    assert play.tick(15 * 60) == RESOLVED


def test_two_entries_of_one_task_are_two_conditions():
    play = Play().hold(subject="nightly").hold(subject="hourly")
    play.hold(subject="nightly", holds=False)
    assert play.group.holds
    play.hold(subject="hourly", holds=False)
    assert not play.group.holds


def test_what_is_about_guardrails_itself_is_no_task():
    condition = Condition("c", "sink_down", "production", OWN_HEALTH, T0, holds=True, summary="Slack refuses alerts")
    assert group_key(condition) == "production/!guardrails"
    group = AlertGroup.idle(condition).note(condition, T0)
    assert headline(group) == "celery-guardrails: alerts do not arrive (production)"
    assert "Slack refuses alerts, since " in render(group, T0).plain
    assert "dlq" not in render(group, T0).plain


def test_the_message_names_both_kinds_of_trouble():
    play = opened(count=12).hold(summary="The entry nightly was due at 02:00")
    shown = render(play.group, play.now)
    assert headline(play.group) == "OnboardingEmail: 12 dead letters, overdue (production)"
    assert "The entry nightly was due at 02:00, since" in shown.plain


def test_a_condition_survives_its_payload():
    condition = Condition("c", "overdue", "production", "shop.a", T0, True, "It is late", "nightly")
    assert Condition.from_payload(condition.as_payload()) == condition
    with pytest.raises(ValueError, match="holds"):
        Condition.from_payload({**condition.as_payload(), "holds": "perhaps"})
    play = Play().hold(subject="nightly")
    play.tick(30)
    assert AlertGroup.from_payload(play.group.as_payload()) == play.group


@pytest.mark.parametrize("signal", sorted(set(SIGNALS) - {"dead_letter"}))
def test_every_signal_has_words(signal):
    condition = Condition("c", signal, "production", "shop.a", T0, holds=True)
    words = headline(AlertGroup.idle(condition).note(condition, T0))
    assert "_" not in words
    assert words.startswith("a: ")


# the threshold of dead letters

FEW = TOKEN.of_task(Policy(alert={"dead_letter": {"count": 20}}).alert, timedelta(0))
HOUR = TOKEN.of_task(Policy(alert={"dead_letter": {"count": 20, "within": "1h"}}).alert, timedelta(0))
NONE = TOKEN.of_task(Policy(alert={"dead_letter": False}).alert, timedelta(0))


def test_fewer_than_the_threshold_open_nothing_and_stay_counted():
    play = Play(FEW).die(19)
    assert play.tick(300) == []
    assert play.tick(900) == []
    assert play.group.state is GroupState.IDLE
    play.die(1)
    assert play.tick(30) == []
    play.die(19)
    assert play.tick(30) == OPENED
    assert play.group.total == 39


def test_the_threshold_counts_within_its_own_time():
    play = Play(HOUR)
    for _ in range(19):
        play.die()
        assert play.tick(120) == []
    play.die()
    assert play.tick(30) == OPENED
    slow = Play(HOUR)
    for _ in range(40):
        slow.die()
        assert slow.tick(240) == []


def test_letters_that_are_no_alert_open_nothing_and_are_shown_with_another_trouble():
    play = Play(NONE).die(500)
    assert play.tick(300) == []
    assert play.tick(900) == []
    assert play.group.state is GroupState.IDLE
    play.hold()
    assert play.tick(30) == OPENED
    assert play.group.total == 500


def test_a_task_whose_retries_take_hours_is_resolved_no_sooner():
    play = Play(TOKEN.of_task(None, timedelta(hours=3))).die()
    assert play.tick(30) == OPENED
    assert play.tick(2.9 * 3600) == []
    assert play.tick(360) == RESOLVED
    assert (
        "No new dead letter for 3 h" in render(play.group, play.now).plain or play.said[-1][1].facts["quiet"] == 10_800
    )


def test_what_flaps_is_resolved_later_each_time():
    play = opened(count=30)
    quiet = 15 * 60
    for flap in range(7):
        expected = quiet * (4 if flap >= 6 else 2 if flap >= 3 else 1)
        play.tick(expected - 31)
        assert play.group.state is not GroupState.RESOLVED, flap
        assert play.tick(1) == RESOLVED
        play.die()
        assert play.tick(30) == REOPENED
    play.tick(4 * quiet)
    assert play.group.state is GroupState.RESOLVED
    play.tick(25 * 3600)
    assert play.group.flapping(play.now) == 0


def test_a_clock_that_was_set_back_makes_nothing_wait():
    play = opened()
    play.now += timedelta(days=1)
    play.die(5)
    play.tick(60)
    play.now -= timedelta(days=1)
    play.die(100)
    play.tick(1)
    said = play.tick(300)
    assert [each for each in said if each[1].value.startswith("worse")]


def test_the_same_group_by_either_key():
    assert group_key(death(), ("task",)) == group_key(death(fingerprint="v1:b"), ("task",))
    assert group_key(death(), ("task", "error")) != group_key(death(fingerprint="v1:b"), ("task", "error"))
