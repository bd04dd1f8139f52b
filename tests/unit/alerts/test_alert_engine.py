"""When a group speaks: time is a value, so a week of alerts takes milliseconds."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.alerts.engine import next_due
from celery_guardrails.alerts.event import group_key
from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.alerts.intent import Kind, Notice
from celery_guardrails.alerts.rules import Rules
from celery_guardrails.store.record import Before
from tests.unit.alerts.alert_play import (
    GROWTH,
    OPENED,
    REOPENED,
    RESOLVED,
    T0,
    TOKEN,
    WEBHOOK,
    Play,
    assert_apart,
    death,
    opened,
)


def test_an_idle_group_says_nothing():
    play = Play()
    assert play.tick(86_400) == []
    assert play.group.state is GroupState.IDLE
    assert next_due(play.group, play.now, TOKEN) is None


def test_the_first_message_waits_for_its_companions():
    play = Play().die(1)
    assert play.group.state is GroupState.PENDING
    assert next_due(play.group, play.now, TOKEN) == T0 + timedelta(seconds=30)
    assert play.tick(29) == []
    play.die(11)
    assert play.tick(1) == OPENED
    assert play.group.base == 12
    assert play.group.state is GroupState.OPEN


@pytest.mark.parametrize(("count", "severity"), [(50, "error"), (1, "critical")])
def test_urgent_ones_wait_less(count, severity):
    play = Play().die(count, severity=severity)
    assert play.tick(4) == []
    assert play.tick(1) == OPENED


def test_flush_does_not_wait():
    play = Play().die(1)
    assert play.tick(flush=True) == OPENED
    play.die(1)
    assert play.tick(1, flush=True) == GROWTH
    assert play.tick(1, flush=True) == []


def test_growth_edits_at_most_once_a_minute_and_only_when_there_is_growth():
    play = opened()
    play.die(3)
    assert play.tick(10) == []
    assert next_due(play.group, play.now, TOKEN) <= play.group.edited_at + timedelta(seconds=60)
    assert play.tick(50) == GROWTH
    assert play.tick(60) == []
    play.die()
    assert play.tick(1) == GROWTH


def test_quiet_then_resolved_and_it_says_how_many_need_a_decision():
    play = opened(count=12)
    assert play.tick(59) == []
    assert play.group.state is GroupState.QUIET
    play.letters(dead=9, recovered=3)
    assert play.tick(1) == GROWTH
    due = next_due(play.group, play.now, TOKEN)
    assert due == play.group.seen_at + timedelta(minutes=15)
    assert play.tick((due - play.now).total_seconds()) == RESOLVED
    reply = play.said[-1][1]
    assert reply.facts["dead"] == 9
    assert not reply.broadcast
    assert next_due(play.group, play.now, TOKEN) is None


def test_a_new_death_ends_the_quiet():
    play = opened()
    play.tick(120)
    assert play.group.state is GroupState.QUIET
    play.die()
    assert play.group.state is GroupState.OPEN


def test_old_letters_found_late_are_not_resolved_at_once():
    play = Play()
    play._step(death(1, T0 - timedelta(days=3)))
    assert play.tick(30) == OPENED
    assert play.tick(60) == []
    assert play.group.first_at == T0 - timedelta(days=3)


def test_failing_again_soon_continues_the_same_message():
    play = opened()
    assert play.tick(15 * 60) == RESOLVED
    play.die()
    assert play.group.period == 1
    assert play.tick(29) == []
    assert play.tick(1) == REOPENED
    # Still within the cooldown: said in the thread alone.
    assert not play.said[-1][1].broadcast
    assert play.tick(15 * 60) == RESOLVED
    play.tick(40 * 60)
    play.die()
    assert play.tick(30) == REOPENED
    assert play.said[-1][1].broadcast


def test_failing_again_late_is_a_new_period():
    play = opened(count=5)
    assert play.tick(15 * 60) == RESOLVED
    play.tick(3600)
    play.die()
    assert (play.group.period, play.group.total, play.group.base) == (2, 1, 0)
    play.group = replace(play.group, posted=False)
    assert play.tick(30) == OPENED
    assert play.said[-1][1].period == 2


def test_a_period_that_nobody_was_told_of_is_not_closed():
    play = opened(count=5)
    play.tick(15 * 60)
    play.group = replace(play.group, posted=False)
    play.now += timedelta(hours=5)
    play.die()
    assert (play.group.period, play.group.total) == (1, 6)


def test_what_becomes_of_the_letters_later_is_shown_in_the_resolved_message():
    play = opened(count=2)
    play.letters(dead=2)
    play.tick(15 * 60)
    play.letters(recovered=2)
    assert next_due(play.group, play.now, TOKEN) == play.group.edited_at + timedelta(seconds=60)
    assert play.tick(60) == [(Kind.EDIT, Notice.UPDATED)]
    play.letters(recovered=2)
    assert play.tick(60) == []


def test_figures_of_letters_alone_open_nothing():
    play = Play().letters(dead=4)
    assert play.tick(3600) == []


def test_the_group_key_tells_environment_task_and_error_apart():
    keys = {
        group_key(death(environment="a/b", task="c")),
        group_key(death(environment="a", task="b/c")),
        group_key(death(environment="a", task="c")),
        group_key(death(environment="a", task="c"), ("task", "error")),
    }
    assert len(keys) == 4
    assert AlertGroup.idle(death(), ("task", "error")).fingerprint == "v1:a"


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["die", "tick", "flush", "letters"]),
        st.integers(1, 40),
        st.sampled_from([0, 1, 5, 30, 60, 300, 1800, 7200]),
    ),
    max_size=60,
)


@given(moves=MOVES, can_edit=st.booleans())
def test_whatever_happens(moves, can_edit):
    play = Play(Rules(can_edit=can_edit))
    for move, count, after in moves:
        play.now += timedelta(seconds=after)
        if move == "die":
            play.die(count)
        if move == "letters":
            play.letters(dead=count)
        play.tick(flush=move == "flush")
        assert AlertGroup.from_payload(play.group.as_payload()) == play.group
        # Opened late it is quiet, or resolved, with the next ticks; nobody who waits for next_due goes in circles.
        play.tick(), play.tick()
        due = next_due(play.group, play.now, play.rules)
        assert due is None or due > play.now
    names = [(intent.period, intent.kind, intent.ordinal) for _, intent in play.said]
    assert len(names) == len(set(names))
    assert can_edit or all(intent.kind is Kind.POST for _, intent in play.said)
    assert sum(intent.notice is Notice.OPENED for _, intent in play.said) <= play.group.period
    assert_apart(play)


def test_requeues_that_end_in_the_same_letters_are_said_though_their_number_does_not_grow():
    stood = Before(T0, "v1:a", "attempts_exhausted", may_have_run=False)
    play = opened(TOKEN, 2)
    play.die(2, before=stood)
    assert (play.group.total, play.group.again) == (2, 2)
    assert play.tick(60) == GROWTH
    said, play = [], opened(WEBHOOK, 2)
    for _ in range(24):
        said += play.die(before=stood).tick(600)
    assert (said, play.group.total) == ([(Kind.POST, Notice.REMINDER)], 2)


def test_a_trouble_that_is_over_before_its_message_makes_nobody_look_again_at_once():
    play = Play()
    play.hold().hold(holds=False)
    assert play.tick(30) == []
    due = next_due(play.group, play.now, TOKEN)
    assert due is not None
    assert due - play.now > timedelta(minutes=10)
    assert play.tick((due - play.now).total_seconds()) == []
    assert play.group.state is GroupState.IDLE
    assert next_due(play.group, play.now, TOKEN) is None


def test_too_few_for_a_message_make_nobody_look_again_at_once():
    play = Play(Rules(count=20, within=timedelta(minutes=5))).die()
    assert play.tick(30) == []
    due = next_due(play.group, play.now, play.rules)
    assert due is not None
    assert due - play.now > timedelta(minutes=10)
