"""A group over time for the engine's tests: time is a value, so a week of alerts takes milliseconds."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise

from celery_guardrails.alerts.condition import Condition
from celery_guardrails.alerts.engine import step
from celery_guardrails.alerts.event import AlertEvent, LettersChanged, Tick
from celery_guardrails.alerts.group import AlertGroup
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

    def happen(self, event) -> list[tuple[Kind, Notice]]:
        before = len(self.said)
        self._step(event)
        return [(intent.kind, intent.notice) for _, intent in self.said[before:]]

    def hold(self, signal: str = "overdue", *, holds: bool = True, **fields) -> Play:
        number = len(self.said) + self.now.timestamp()
        known = {"ref_id": f"c{number}", "environment": "production", "task": "shop.OnboardingEmail"}
        self._step(Condition(signal=signal, at=self.now, holds=holds, **{**known, "summary": "It is late", **fields}))
        return self

    def tick(self, after: float = 0, *, flush: bool = False, **cover) -> list[tuple[Kind, Notice]]:
        self.now += timedelta(seconds=after)
        before = len(self.said)
        self._step(Tick(flush, **cover))
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


def assert_apart(play: Play) -> None:
    """Between a message in the channel and the next about the same trouble: 5 minutes when worse, 4 hours else."""
    loud = [(at, intent.notice) for at, intent in play.said if intent.is_loud and not intent.facts.get("channel")]
    for (earlier, _), (later, notice) in pairwise(loud):
        if notice in (Notice.WORSE_TOTAL, Notice.WORSE_RATE, Notice.NEW_ERROR, Notice.NEW_SIGNAL):
            assert later - earlier >= timedelta(minutes=5)
        if notice is Notice.REMINDER:
            assert later - earlier >= play.rules.reminder
        assert notice is not Notice.GROWTH
