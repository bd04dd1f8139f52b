"""What would have been posted: the archive's events once more through the engine, with time as a value. Pure.

Owns the order of events and ticks. Letters' later states, acknowledgements and silences are left out: what is simulated
are the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from celery_guardrails.alerts.condition import Condition
from celery_guardrails.alerts.cover import digest_events, ticks
from celery_guardrails.alerts.engine import LIVE, next_due, step
from celery_guardrails.alerts.event import AlertEvent, EngineEvent, Tick, digest_key, group_key
from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.alerts.intent import Intent
from celery_guardrails.alerts.rules import Rules

__all__ = ["Notified", "Simulation"]

_HALF_A_SECOND = timedelta(milliseconds=500)
"""How often a guardian looks."""
_MOST_TICKS = 100_000


@dataclass(frozen=True)
class Notified:
    """One notification that would have been sent, when, and the group as it was then."""

    at: datetime
    group: AlertGroup
    intent: Intent


class Simulation:
    """Plays events, in the order of their instants, and says what is notified.

    Args:
        rules_of: a group's rules.
        group_by: what is one group, as in the rules.
    """

    def __init__(self, rules_of: Callable[[AlertGroup], Rules], group_by: tuple[str, ...] = ("task",)) -> None:
        self._rules_of = rules_of
        self._group_by = group_by
        self._groups: dict[str, AlertGroup] = {}

    def play(self, events: Iterable[AlertEvent | Condition], until: datetime) -> Iterator[Notified]:
        """Everything that is notified until an instant.

        Args:
            events: by their `at`, the oldest first.
            until: the end; what is due by then is notified.
        """
        now: datetime | None = None
        for event in events:
            yield from self._pass_time(now or event.at, event.at)
            now = max(now or event.at, event.at)
            key = group_key(event, self._group_by)
            group = self._groups.get(key) or AlertGroup.idle(event, self._group_by)
            yield from self._step(group, event, now)
        if now is not None:
            yield from self._pass_time(now, until)

    def _pass_time(self, now: datetime, until: datetime) -> Iterator[Notified]:
        for _ in range(_MOST_TICKS):
            due = min(
                (at for group in self._groups.values() if (at := next_due(group, now, self._rules_of(group)))),
                default=None,
            )
            if due is None or due > until:
                return
            now = max(now + _HALF_A_SECOND, due)
            yield from self._tick(now)

    def _tick(self, now: datetime) -> Iterator[Notified]:
        known = [group for group in self._groups.values() if group.state in (GroupState.PENDING, *LIVE)]
        told = ticks(known, now, self._rules_of)
        for group in known:
            if group.members is None:
                yield from self._step(group, told[group.key], now)
        for environment in sorted({group.environment for group in self._groups.values()}):
            key = digest_key(environment)
            happened = digest_events(list(self._groups.values()), environment, told.get(key, Tick()))
            if key not in self._groups and len(happened) == 1:
                continue  # there is no storm, and was none
            for event in happened:
                yield from self._step(self._groups.get(key) or AlertGroup.digest(environment), event, now)

    def _step(self, group: AlertGroup, event: EngineEvent, now: datetime) -> Iterator[Notified]:
        after, intents = step(group, event, now, self._rules_of(group))
        self._groups[after.key] = replace(after, posted=after.spoke_at is not None)
        for intent in intents:
            yield Notified(now, after, intent)
