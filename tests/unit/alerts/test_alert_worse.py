"""What got worse breaks through the cooldown, and however many die, the channel hears of it a few times."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from itertools import cycle, pairwise

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from celery_guardrails.alerts.engine import next_due
from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.alerts.intent import Kind, Notice
from celery_guardrails.alerts.rules import Rules
from celery_guardrails.alerts.worse import worse_total
from tests.unit.alerts.alert_play import (
    GROWTH,
    REOPENED,
    T0,
    TOKEN,
    WEBHOOK,
    WORSE,
    Play,
    assert_apart,
    death,
    opened,
)


def test_nothing_new_in_the_channel_before_the_cooldown_unless_it_got_worse():
    play = opened(count=12)
    said = []
    for _ in range(11):
        play.die()
        said += play.tick(120)
    assert play.group.total == 23
    assert {kind for kind, _ in said} == {Kind.EDIT}
    play.die()
    assert play.tick(120) == WORSE
    assert play.now < play.said[0][0] + TOKEN.cooldown
    assert play.said[-1][1].broadcast
    assert play.said[-1][1].facts == {"total": 24, "base": 12}
    assert play.group.base == 24


def test_however_bad_it_gets_five_minutes_lie_between_two_messages_in_the_channel():
    play = opened()
    play.die(500)
    assert next_due(play.group, play.now, TOKEN) <= play.group.spoke_at + timedelta(minutes=5)
    assert play.tick(299) == GROWTH
    assert next_due(play.group, play.now, TOKEN) == play.group.spoke_at + timedelta(minutes=5)
    assert play.tick(1) == WORSE
    play.die(5000)
    assert play.tick(299) == GROWTH
    assert play.tick(1) == WORSE


def test_a_flush_does_not_shorten_the_five_minutes():
    play = opened()
    play.die(500)
    assert play.tick(1, flush=True) == GROWTH
    assert play.tick(299, flush=True) == WORSE


def test_a_cooldown_under_five_minutes_is_the_least_time_itself():
    play = opened(Rules(cooldown=timedelta(minutes=1)))
    play.die(30)
    assert play.tick(59) == []
    assert play.tick(1) == WORSE


def test_what_got_worse_is_said_though_it_has_become_quiet():
    play = opened()
    play.die(500)
    assert play.tick(60) == GROWTH
    assert play.tick(200) == []
    assert play.group.state is GroupState.QUIET
    assert play.tick(40) == WORSE


def test_after_the_cooldown_only_when_it_got_worse():
    play = opened(count=12)
    for _ in range(60):
        play.die() if play.group.total < 23 else None
        assert (Kind.REPLY, Notice.WORSE_TOTAL) not in play.tick(60)
        play.group = replace(play.group, seen_at=play.now)  # it goes on, but does not grow
    play.die()
    assert play.group.total == 24
    assert play.tick(60) == WORSE


@pytest.mark.parametrize(("base", "total", "worse"), [(1, 10, False), (1, 11, True), (12, 23, False), (12, 24, True)])
def test_rule_a(base, total, worse):
    group = replace(AlertGroup.idle(death()), base=base, total=total)
    assert worse_total(group) is worse


def test_a_webhook_gets_growth_only_as_a_reminder_or_when_it_got_worse():
    play = opened(WEBHOOK)
    play.die(1)
    assert play.tick(60) == []
    for _ in range(238):
        play.group = replace(play.group, seen_at=play.now)
        assert play.tick(60) == []
    play.group = replace(play.group, seen_at=play.now)
    assert next_due(play.group, play.now, WEBHOOK) == play.group.spoke_at + timedelta(hours=4)
    assert play.tick(60) == [(Kind.POST, Notice.REMINDER)]
    play.die(40)
    assert play.tick(299) == []
    assert next_due(play.group, play.now, WEBHOOK) == play.group.spoke_at + timedelta(minutes=5)
    assert play.tick(1) == [(Kind.POST, Notice.WORSE_TOTAL)]
    assert play.tick(16 * 60) == [(Kind.POST, Notice.RESOLVED)]
    play.die()
    assert play.tick(30) == [(Kind.POST, Notice.REOPENED)]


def test_failing_again_within_the_cooldown_is_loud_when_it_got_worse():
    play = opened()
    play.tick(15 * 60)
    play.die(9)
    assert play.tick(30) == REOPENED
    assert not play.said[-1][1].broadcast
    play.tick(1)
    play.die()
    assert play.tick(1) == WORSE

    play = opened()
    play.tick(15 * 60)
    play.die(10)
    assert play.tick(30) == REOPENED
    assert play.said[-1][1].broadcast
    assert play.tick(1) == []


BY_RATE = [(Kind.EDIT, Notice.WORSE_RATE), (Kind.REPLY, Notice.WORSE_RATE)]
NEW_ERROR = [(Kind.EDIT, Notice.NEW_ERROR), (Kind.REPLY, Notice.NEW_ERROR)]
NEW_SIGNAL = [(Kind.EDIT, Notice.NEW_SIGNAL), (Kind.REPLY, Notice.NEW_SIGNAL)]


def test_three_times_as_many_in_five_minutes_are_worse():
    play = opened(count=100)
    for _ in range(20):
        play.die().tick(60)  # one a minute: five in five minutes
    assert {notice for _, intent in play.said[1:] for notice in [intent.notice]} == {Notice.GROWTH}
    play.die(60)
    assert play.tick(30) == []  # 65 in five minutes, but 100 were at the first message
    play = opened(count=100)
    play.tick(10 * 60)
    play.group = replace(play.group, base=1000, total=1000, spoken=replace(play.group.spoken, rate=3))
    play.die(9)
    assert play.tick(1) == GROWTH
    play.die()
    assert play.tick(1) == BY_RATE


def test_an_error_that_was_not_there_is_worse_with_five_hits_or_a_tenth():
    play = opened(count=40)
    play.die(3, fingerprint="v1:new").tick(301)
    assert play.said[-1][1].notice is Notice.GROWTH
    play.die(1, fingerprint="v1:new")
    assert play.tick(1) == []  # four of forty-four are no tenth
    play.die(1, fingerprint="v1:new")
    assert play.tick(1) == NEW_ERROR
    play.die(3, fingerprint="v1:new")
    assert play.tick(400) == GROWTH
    few = opened(count=4)
    few.die(1, fingerprint="v1:new")
    assert few.tick(301) == GROWTH  # one letter is no pattern
    few.die(1, fingerprint="v1:new")
    assert few.tick(1) == NEW_ERROR


def test_higher_severity_waits_for_nothing():
    play = opened()
    play.die(severity="warning")
    assert play.tick(1) == []
    play.die(severity="critical")
    assert play.tick(1) == [(Kind.EDIT, Notice.SEVERITY_ROSE), (Kind.REPLY, Notice.SEVERITY_ROSE)]
    play.die(severity="critical")
    assert play.tick(1) == []


def test_another_signal_of_the_same_task_is_worse():
    play = opened()
    play.hold("overdue", severity="error")
    assert play.tick(299) == GROWTH
    assert play.tick(1) == NEW_SIGNAL
    play.hold("overdue", severity="error", summary="It is very late")
    assert play.tick(301) == GROWTH


STORM = 10_000
CUTS = st.lists(st.integers(1, STORM - 1), max_size=40, unique=True).map(
    lambda cuts: pairwise([0, *sorted(cuts), STORM])
)
GAPS = st.lists(st.integers(0, 14 * 60), min_size=1, max_size=10).map(cycle)


# Not shrunk: with 10,000 steps each, that takes minutes and tells no more.
@settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(cuts=CUTS, gaps=GAPS, can_edit=st.booleans())
def test_however_ten_thousand_come_they_are_few_messages(cuts, gaps, can_edit):
    play = Play(Rules(can_edit=can_edit))
    for earlier, later in cuts:
        play.die(later - earlier)
        ends = play.now + timedelta(seconds=next(gaps))
        while (due := next_due(play.group, play.now, play.rules)) is not None and due <= ends:
            play.tick((due - play.now).total_seconds())
        play.tick((ends - play.now).total_seconds())
    last = play.group.seen_at + timedelta(seconds=15 * 60 - 1)
    play.tick((last - play.now).total_seconds())
    in_channel = [intent for _, intent in play.said if intent.kind is Kind.POST or intent.broadcast]
    notices = Counter(intent.notice for intent in in_channel)
    assert (play.group.period, play.group.total, notices[Notice.OPENED]) == (1, STORM, 1)
    # Rule (a): 1, 11, 22, 44, ... 5,632.
    assert notices[Notice.WORSE_TOTAL] <= 10
    assert notices[Notice.REMINDER] <= (play.now - T0) / play.rules.reminder
    named = {Notice.OPENED, Notice.WORSE_TOTAL, Notice.WORSE_RATE, Notice.REMINDER, Notice.REOPENED, Notice.RESOLVED}
    assert set(notices) <= named
    assert not worse_total(play.group)
    assert_apart(play)


def test_the_slowest_storm_of_ten_thousand_is_eleven_messages():
    play = Play(Rules(reminder=timedelta(days=3650)))
    for _ in range(STORM):
        play.die()
        play.tick(5 * 60)
    in_channel = [intent for _, intent in play.said if intent.kind is Kind.POST or intent.broadcast]
    assert [intent.notice for intent in in_channel] == [Notice.OPENED, *[Notice.WORSE_TOTAL] * 10]
    assert [intent.facts["total"] for intent in in_channel] == [1, 11, 22, 44, 88, 176, 352, 704, 1408, 2816, 5632]
