"""Whatever happens in whatever order: nothing is lost from the counts, said twice for one reason, or left unsaid."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from celery_guardrails.alerts.engine import LIVE, next_due
from celery_guardrails.alerts.event import Acknowledged, PutBack, Unacknowledged
from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.alerts.intent import Kind, Notice
from celery_guardrails.alerts.rules import EscalationStep, Rules
from celery_guardrails.alerts.worse import worse
from tests.unit.alerts.alert_play import Play, assert_apart

MOVES = st.one_of(
    st.tuples(st.just("die"), st.integers(1, 40), st.sampled_from(["v1:a", "v1:b", "v1:c"])),
    st.tuples(st.just("sever"), st.just(1), st.just("v1:a")),
    st.tuples(st.just("hold"), st.booleans(), st.sampled_from(["overdue", "throughput"])),
    st.tuples(st.just("ack"), st.integers(1, 300), st.none()),
    st.tuples(st.just("unack"), st.none(), st.none()),
    st.tuples(st.just("requeue"), st.integers(0, 5), st.sampled_from(["ada", "ben"])),
    st.tuples(st.just("silence"), st.integers(1, 300), st.none()),
    st.tuples(st.just("wait"), st.integers(1, 6 * 3600), st.none()),
    st.tuples(st.just("back"), st.integers(1, 3600), st.none()),
)
STEPS = (EscalationStep(timedelta(minutes=15), mention="<@U1>"), EscalationStep(timedelta(minutes=30), channel="#all"))


class Week(Play):
    """A group to which anything happens, with a tick whenever one is due."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.died, self.silenced_until, self.periods = 0, None, Counter()

    def do(self, move) -> None:
        kind, number, word = move
        if kind in ("die", "sever"):
            self.die(number, fingerprint=word, severity="critical" if kind == "sever" else "error")
            self.died += number
        elif kind == "hold":
            self.hold(word, holds=number)
        elif kind == "ack":
            self.happen(Acknowledged("ada", self.now + timedelta(minutes=number)))
        elif kind == "unack":
            self.happen(Unacknowledged("ada"))
        elif kind == "requeue":
            said = self.happen(PutBack((self.group.audited or 0) + 1, word, "it is mended", number))
            assert said in ([], [(Kind.EDIT, Notice.REQUEUED), (Kind.REPLY, Notice.REQUEUED)])
            assert not any(intent.is_loud for _, intent in self.said[len(self.said) - len(said) :])
        elif kind == "silence":
            self.silenced_until = self.now + timedelta(minutes=number)
        elif kind == "wait":
            self.pass_time(timedelta(seconds=number))
        else:
            self.now -= timedelta(seconds=number)
        self.look()

    def pass_time(self, delta: timedelta) -> None:
        ends, turns = self.now + delta, 0
        while (due := next_due(self.group, self.now, self.rules)) is not None and due <= ends:
            turns += 1
            assert turns < 1000, "a due that no tick settles"
            self.now = max(self.now, due)
            self.look()
            if self.now >= due:
                self.now += timedelta(milliseconds=500)
        self.now = max(self.now, ends)
        self.look()

    def look(self) -> None:
        if self.silenced_until is not None and self.now >= self.silenced_until:
            self.silenced_until = None
        period = self.group.period
        self.tick(0, silenced_until=self.silenced_until)
        # it survives being stored at any instant
        self.group = AlertGroup.from_payload(json.loads(json.dumps(self.group.as_payload())))
        assert self.group.period == period


@settings(max_examples=150, deadline=None)
@given(moves=st.lists(MOVES, max_size=30), can_edit=st.booleans(), escalate=st.booleans())
def test_no_sequence_loses_a_count_repeats_a_reason_or_hides_what_got_worse(moves, can_edit, escalate):
    week = Week(Rules(can_edit=can_edit, escalation=STEPS if escalate else ()))
    counted = {}
    for move in moves:
        week.do(move)
        counted[week.group.period] = week.group.total
    assert sum(counted.values()) == week.died
    names = [(intent.period, intent.kind, intent.ordinal) for _, intent in week.said]
    assert len(names) == len(set(names))
    opened = Counter(intent.period for _, intent in week.said if intent.notice is Notice.OPENED)
    assert set(opened.values()) <= {1}
    if not any(move[0] == "back" for move in moves):
        assert_apart(week)
    # left alone, with no silence: what is worse is said within the least time between two messages
    week.silenced_until = None
    week.look()
    week.pass_time(timedelta(minutes=6))
    recently = week.group.spoke_at is not None and week.now < week.group.spoke_at + week.rules.worse_after
    assert recently or worse(week.group, week.now) is None or week.group.state not in LIVE
    if week.died:
        assert any(intent.is_loud for _, intent in week.said)
    # left alone for longer, it ends once nothing holds, and nobody need look again
    week.pass_time(timedelta(days=2))
    assert week.group.holds or week.group.state in (GroupState.IDLE, GroupState.RESOLVED)
    assert week.group.holds or next_due(week.group, week.now, week.rules) is None


def test_a_week_of_incidents_is_simulated_in_no_time():
    week = Week(Rules(escalation=STEPS))
    for hour in range(7 * 24):
        if hour % 8 == 0:
            for _ in range(12):
                week.die(5).tick(60)
        week.pass_time(timedelta(minutes=48))
    assert week.group.period > 1
    assert len([intent for _, intent in week.said if intent.is_loud]) < 100
