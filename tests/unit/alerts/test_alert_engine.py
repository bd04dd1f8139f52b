"""When a group speaks: time is a value, so a week of alerts takes milliseconds."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.alerts.engine import next_due, step, worse_total
from celery_guardrails.alerts.event import AlertEvent, LettersChanged, Tick, group_key
from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.alerts.intent import Kind, Notice
from celery_guardrails.alerts.rules import Rules

T0 = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
TOKEN, WEBHOOK = Rules(), Rules(can_edit=False)


def death(number: int = 1, at: datetime = T0, **fields) -> AlertEvent:
    known = {
        "ref_id": f"d{number}",
        "environment": "production",
        "task": "shop.OnboardingEmail",
        "error": "TimeoutError",
        "message": "timed out",
        "fingerprint": "v1:a",
        "reason": "attempts_exhausted",
        "category": "timeout",
        "letter_id": f"l{number}",
    }
    return AlertEvent(at=at, **{**known, **fields})


class Play:
    """A group over time, and everything that it wanted said, with when."""

    def __init__(self, rules: Rules = TOKEN) -> None:
        self.rules, self.now = rules, T0
        self.group = AlertGroup.idle(death(), rules.group_by)
        self.said = []

    def die(self, count: int = 1, **fields) -> Play:
        for _ in range(count):
            self._step(death(self.group.total, self.now, **fields))
        return self

    def letters(self, **counts) -> Play:
        self._step(LettersChanged(**counts))
        return self

    def tick(self, after: float = 0, *, flush: bool = False) -> list[tuple[Kind, Notice]]:
        self.now += timedelta(seconds=after)
        before = len(self.said)
        self._step(Tick(flush))
        # As the poster does once the message is out.
        self.group = replace(self.group, posted=self.group.posted or bool(self.said))
        return [(intent.kind, intent.notice) for _, intent in self.said[before:]]

    def _step(self, event) -> None:
        self.group, intents = step(self.group, event, self.now, self.rules)
        self.said += [(self.now, intent) for intent in intents]


def opened(rules: Rules = TOKEN, count: int = 1) -> Play:
    play = Play(rules).die(count)
    assert play.tick(30) == [(Kind.POST, Notice.OPENED)]
    return play


OPENED = [(Kind.POST, Notice.OPENED)]
GROWTH = [(Kind.EDIT, Notice.GROWTH)]
WORSE = [(Kind.EDIT, Notice.WORSE_TOTAL), (Kind.REPLY, Notice.WORSE_TOTAL)]
RESOLVED = [(Kind.EDIT, Notice.RESOLVED), (Kind.REPLY, Notice.RESOLVED)]
REOPENED = [(Kind.EDIT, Notice.REOPENED), (Kind.REPLY, Notice.REOPENED)]


def test_an_idle_group_says_nothing():
    play = Play()
    assert play.tick(86_400) == []
    assert play.group.state is GroupState.IDLE
    assert next_due(play.group, TOKEN) is None


def test_the_first_message_waits_for_its_companions():
    play = Play().die(1)
    assert play.group.state is GroupState.PENDING
    assert next_due(play.group, TOKEN) == T0 + timedelta(seconds=30)
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
    assert next_due(play.group, TOKEN) <= play.group.edited_at + timedelta(seconds=60)
    assert play.tick(50) == GROWTH
    assert play.tick(60) == []
    play.die()
    assert play.tick(1) == GROWTH


def test_nothing_new_in_the_channel_before_the_cooldown_however_bad_it_gets():
    play = opened()
    said = []
    for _ in range(29):
        play.die(500)
        said += play.tick(60)
    assert {kind for kind, _ in said} == {Kind.EDIT}
    play.die()
    assert play.tick(60) == WORSE
    assert play.said[-1][1].broadcast
    assert play.said[-1][1].facts == {"total": 14_502, "base": 1}
    assert play.group.base == 14_502


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


def test_a_webhook_posts_once_it_has_grown_after_the_cooldown():
    play = opened(WEBHOOK)
    play.die(1)
    assert play.tick(60) == []
    for _ in range(28):
        play.die(0)
        play.group = replace(play.group, seen_at=play.now)
        assert play.tick(60) == []
    assert next_due(play.group, WEBHOOK) == play.group.spoke_at + timedelta(minutes=30)
    assert play.tick(60) == [(Kind.POST, Notice.GROWTH)]
    play.die(40)
    assert play.tick(60) == []
    play.group = replace(play.group, seen_at=play.now + timedelta(minutes=29))
    assert play.tick(29 * 60) == [(Kind.POST, Notice.WORSE_TOTAL)]
    assert play.tick(16 * 60) == [(Kind.POST, Notice.RESOLVED)]
    play.die()
    assert play.tick(30) == [(Kind.POST, Notice.REOPENED)]


def test_quiet_then_resolved_and_it_says_how_many_need_a_decision():
    play = opened(count=12)
    assert play.tick(59) == []
    assert play.group.state is GroupState.QUIET
    play.letters(dead=9, recovered=3)
    assert play.tick(1) == GROWTH
    due = next_due(play.group, TOKEN)
    assert due == play.group.seen_at + timedelta(minutes=15)
    assert play.tick((due - play.now).total_seconds()) == RESOLVED
    reply = play.said[-1][1]
    assert reply.facts["dead"] == 9
    assert not reply.broadcast
    assert next_due(play.group, TOKEN) is None


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
    assert next_due(play.group, TOKEN) == play.group.edited_at + timedelta(seconds=60)
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
        due = next_due(play.group, play.rules)
        assert due is None or due > play.now
    names = [(intent.period, intent.kind, intent.ordinal) for _, intent in play.said]
    assert len(names) == len(set(names))
    assert can_edit or all(intent.kind is Kind.POST for _, intent in play.said)
    assert sum(intent.notice is Notice.OPENED for _, intent in play.said) <= play.group.period
    loud = [at for at, i in play.said if i.notice in (Notice.GROWTH, Notice.WORSE_TOTAL) and i.kind is not Kind.EDIT]
    for earlier, later in pairwise(loud):
        assert later - earlier >= play.rules.cooldown


def test_a_storm_of_ten_thousand_is_few_messages():
    play = Play()
    for _ in range(1000):
        play.die(10)
        play.tick(10)
    in_channel = [i for _, i in play.said if i.kind is Kind.POST or i.broadcast]
    assert play.group.total == 10_000
    assert [i.notice for i in in_channel] == [Notice.OPENED, *[Notice.WORSE_TOTAL] * (len(in_channel) - 1)]
    assert len(in_channel) <= 11
