"""One problem as data: what an alert group has counted and where it stands.

Owns `AlertGroup`, its state, and how a dead letter or a condition is added to its figures, all of bounded size: at most
50 fingerprints, 20 conditions, 20 names of unknown tasks; `tally` bounds the rest.
It must not know when a group notifies (engine), nor in which words (render).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from hashlib import sha256
from typing import Any

from pydantic import TypeAdapter

from celery_guardrails.alerts.condition import Condition, parts_of
from celery_guardrails.alerts.event import AlertEvent, LettersChanged, digest_key, group_key
from celery_guardrails.alerts.rules import EscalationStep
from celery_guardrails.alerts.tally import Affected, ErrorCount, Sample, latest, widen, with_value, worst
from celery_guardrails.alerts.window import Counts, count, within
from celery_guardrails.policy.decision import Reason
from celery_guardrails.store.record import Before

__all__ = [
    "MANY_TASKS",
    "RATE_SPAN",
    "UNKNOWN_TASKS",
    "Acknowledgement",
    "Affected",
    "AlertGroup",
    "Base",
    "ErrorCount",
    "Escalation",
    "GroupState",
    "Holding",
    "Members",
    "Sample",
]

UNKNOWN_TASKS = "unknown tasks"
"""Stands in place of the task in the group of all tasks that workers do not know."""
MANY_TASKS = "many tasks"
"""Stands in place of the task in a digest."""
RATE_SPAN = timedelta(minutes=5)
"""The span of a group's rate."""
_MOST_ERRORS = 50
_MOST_CONDITIONS = 20
_FLAPS = 16
_PERMANENT, _LOST = Reason.PERMANENT_ERROR.value, Reason.WORKER_LOST.value


class GroupState(str, Enum):
    """Where a group stands: `idle` -> `pending` -> `open` <-> `acknowledged` -> `quiet` -> `resolved`."""

    IDLE = "idle"
    PENDING = "pending"
    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    QUIET = "quiet"
    RESOLVED = "resolved"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Acknowledgement:
    """Who takes care of a group, since when, and when that ends if it still fails."""

    by: str
    at: datetime
    until: datetime


@dataclass(frozen=True)
class Holding:
    """A condition of a group: whether it holds, how bad it is, and since when; `at` is the latest change."""

    holds: bool
    severity: str
    summary: str
    since: datetime
    at: datetime


@dataclass(frozen=True)
class Escalation:
    """How far a group has been escalated: its steps, fixed when it opened, and those taken in the present round.

    Attributes:
        started_at: when the round began.
        taken: the steps of this round that are taken.
        round: 0 for the first round; the steps are repeated twice at most.
        grown: total and further deaths at the last step.
    """

    steps: tuple[EscalationStep, ...]
    started_at: datetime
    taken: int = 0
    round: int = 0
    grown: int = 0


@dataclass(frozen=True)
class Base:
    """The figures at a group's last message in the channel, by which it is decided whether it got worse since."""

    rate: int
    severity: str
    signals: tuple[str, ...]
    errors: dict[str, int]


@dataclass(frozen=True)
class Members:
    """What a digest stands for: how many groups, and the largest of them with their totals."""

    groups: int = 0
    largest: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class AlertGroup:
    """What one group has counted in its present period.

    Figures count letters, not deaths. A letter that is requeued and dies again in the same period counts once, under
    its latest error; `again` counts these further deaths (`again_base`: at `spoke_at`). Of the letters, `doubtful` may
    have run already, `unknown` failed with an error of unknown kind, and `killers` ran in several workers that died.
    `recent` counts those of the last five minutes, `counted` those within the threshold's time.

    `first_at` and `last_at` are when letters died. `pending_at`, `opened_at`, `seen_at` (the last failure),
    `edited_at`, `resolved_at` and `spoke_at` (the last message in the channel) are by the guardian's clock, so that old
    letters found late are not resolved at once. `base` is the total at `spoke_at`, `spoken` the other figures then.
    `posted`: this period's message was posted. `unsaid`: the message no longer shows everything. `ordinals` counts the
    intents of each kind. `unknown_names` makes it the group of the tasks that workers do not know, and holds their
    names; `members` makes it a digest.

    `silenced_until` is the end of the silence that covers it, `muted_at` the total and further deaths when it was
    silenced or inhibited. `digested`: a digest stands for this period. `flaps` are when it was reopened. `audited` is
    the last entry of the audit trail that was read for it.
    """

    key: str
    environment: str
    task: str
    fingerprint: str | None = None
    unknown_names: Affected | None = None
    period: int = 1
    state: GroupState = GroupState.IDLE
    severity: str = "error"
    owner: str | None = None
    runbook: str | None = None
    queue: str = ""
    version: str | None = None
    total: int = 0
    base: int = 0
    again: int = 0
    again_base: int = 0
    doubtful: int = 0
    unknown: int = 0
    killers: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    recent: Counts = ()
    counted: Counts = ()
    pending_at: datetime | None = None
    opened_at: datetime | None = None
    seen_at: datetime | None = None
    spoke_at: datetime | None = None
    edited_at: datetime | None = None
    resolved_at: datetime | None = None
    errors: dict[str, ErrorCount] = field(default_factory=dict)
    other_errors: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    affected: dict[str, Affected] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    conditions: dict[str, Holding] = field(default_factory=dict)
    letters: LettersChanged | None = None
    audited: int | None = None
    spoken: Base | None = None
    acknowledged: Acknowledgement | None = None
    escalation: Escalation | None = None
    silenced_until: datetime | None = None
    muted_at: int | None = None
    digested: bool = False
    members: Members | None = None
    flaps: tuple[datetime, ...] = ()
    ordinals: dict[str, int] = field(default_factory=dict)
    unsaid: bool = False
    posted: bool = False

    @classmethod
    def idle(cls, event: AlertEvent | Condition, group_by: tuple[str, ...] = ("task",)) -> AlertGroup:
        """The empty group that `event` would be counted in."""
        key, environment = group_key(event, group_by), event.environment
        if isinstance(event, Condition):
            return cls(key, environment, event.task)
        if event.names_unknown_task:
            return cls(key, environment, UNKNOWN_TASKS, unknown_names=Affected())
        return cls(key, environment, event.task, event.fingerprint if "error" in group_by else None)

    @classmethod
    def digest(cls, environment: str) -> AlertGroup:
        """The empty digest of an environment."""
        return cls(digest_key(environment), environment, MANY_TASKS, members=Members())

    @property
    def alert_id(self) -> str:
        """Eight characters that name this group to people, the same in every period."""
        return sha256(self.key.encode()).hexdigest()[:8]

    @property
    def critical(self) -> bool:
        """Whether any of its dead letters or conditions was critical."""
        return self.severity == "critical"

    @property
    def grown(self) -> int:
        """All failures that it counted: letters and their further deaths."""
        return self.total + self.again

    @property
    def holds(self) -> bool:
        """Whether one of its conditions holds now."""
        return any(condition.holds for condition in self.conditions.values())

    @property
    def signals(self) -> tuple[str, ...]:
        """The kinds of trouble that it has now, sorted."""
        held = {parts_of(name)[0] for name, condition in self.conditions.items() if condition.holds}
        return tuple(sorted(held | ({"dead_letter"} if self.total else set())))

    def rate(self, now: datetime) -> int:
        """How many letters died within the last five minutes."""
        return within(self.recent, now, RATE_SPAN)

    def flapping(self, now: datetime) -> int:
        """How often it was reopened within the last 24 hours."""
        return sum(timedelta(0) <= now - at < timedelta(hours=24) for at in self.flaps)

    def with_flap(self, now: datetime) -> AlertGroup:
        """This group, reopened once more."""
        return replace(self, flaps=(*self.flaps, now)[-_FLAPS:])

    def add(self, event: AlertEvent, now: datetime, span: timedelta = RATE_SPAN) -> AlertGroup:
        """Count one dead letter; only the next tick notifies.

        Args:
            event: the dead letter.
            now: this instant.
            span: the time within which the threshold counts.
        """
        figures = self._counted(event)
        recent = count(self.recent, now, RATE_SPAN)
        return self._with(
            **figures,
            severity=event.severity if not self.total and not self.conditions else worst(self.severity, event.severity),
            owner=event.owner or self.owner,
            runbook=event.runbook or self.runbook,
            queue=event.queue or self.queue,
            version=event.version or self.version,
            first_at=min(self.first_at, event.at) if self.first_at else event.at,
            last_at=max(self.last_at, event.at) if self.last_at else event.at,
            seen_at=now,
            recent=recent,
            counted=recent if span == RATE_SPAN else count(self.counted, now, span),
            affected=widen(self.affected, event.affected) if event.affected else self.affected,
            unknown_names=None if self.unknown_names is None else with_value(self.unknown_names, event.task),
            samples=latest(self.samples, Sample(event.letter_id, dict(event.correlation))),
            unsaid=True,
        )

    def note(self, event: Condition, now: datetime) -> AlertGroup:
        """Note that a condition holds, or no longer does; an older change than the known one changes nothing."""
        known = self.conditions.get(event.name)
        if known is not None and event.at < known.at:
            return self
        if known is None and (not event.holds or len(self.conditions) >= _MOST_CONDITIONS):
            return self
        since = known.since if known is not None and known.holds else event.at
        holding = Holding(
            event.holds, event.severity, event.summary or (known.summary if known else ""), since, event.at
        )
        first = not self.total and not self.conditions
        return replace(
            self,
            conditions={**self.conditions, event.name: holding},
            severity=event.severity if first else worst(self.severity, event.severity if event.holds else "info"),
            owner=event.owner or self.owner,
            runbook=event.runbook or self.runbook,
            queue=event.queue or self.queue,
            first_at=min(self.first_at, event.at) if self.first_at else event.at,
            last_at=max(self.last_at, event.at) if self.last_at else event.at,
            seen_at=now,
            unsaid=True,
        )

    def _with(self, **changes: Any) -> AlertGroup:
        """As `dataclasses.replace`, in a fraction of its time: 10,000 letters may come at once."""
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__, **changes)
        return changed

    def _counted(self, event: AlertEvent) -> dict[str, Any]:
        """The figures with this letter in them, once."""
        before, group, again = event.before, self, self.again
        if before is not None and self.first_at is not None and before.died_at >= self.first_at:
            group, again = self._without(before), again + 1
        known = group.errors.get(event.fingerprint)
        errors, other = group.errors, group.other_errors
        if known or len(errors) < _MOST_ERRORS:
            counted = ErrorCount((known.count if known else 0) + 1, event.error, event.message)
            errors = {**errors, event.fingerprint: counted}
        else:
            other += 1
        return {
            "total": group.total + 1,
            "again": again,
            "errors": errors,
            "other_errors": other,
            "reasons": {**group.reasons, event.reason: group.reasons.get(event.reason, 0) + 1},
            "doubtful": group.doubtful + event.may_have_run,
            "unknown": group.unknown + (event.unknown and event.reason == _PERMANENT),
            "killers": group.killers + (event.crashes > 1 and event.reason == _LOST),
        }

    def _without(self, before: Before) -> AlertGroup:
        """The figures without a letter in its earlier state, which was counted in this period."""
        known = self.errors.get(before.fingerprint)
        errors = {key: error for key, error in self.errors.items() if key != before.fingerprint or error.count > 1}
        if known is not None and known.count > 1:
            errors[before.fingerprint] = replace(known, count=known.count - 1)
        reasons = {key: count - (key == before.reason) for key, count in self.reasons.items()}
        reasons = {key: count for key, count in reasons.items() if count > 0}
        return replace(
            self,
            total=max(0, self.total - 1),
            errors=errors,
            other_errors=self.other_errors if known is not None else max(0, self.other_errors - 1),
            reasons=reasons,
            doubtful=max(0, self.doubtful - before.may_have_run),
            unknown=min(self.unknown, reasons.get(_PERMANENT, 0)),
            killers=min(self.killers, reasons.get(_LOST, 0)),
        )

    def next_period(self) -> AlertGroup:
        """The same group, empty, at the start of its next period; what still holds, holds on."""
        names = None if self.unknown_names is None else Affected()
        fresh = AlertGroup(self.key, self.environment, self.task, self.fingerprint, names)
        members = None if self.members is None else Members()
        held = {name: condition for name, condition in self.conditions.items() if condition.holds}
        return replace(
            fresh, period=self.period + 1, members=members, conditions=held, flaps=self.flaps, audited=self.audited
        )

    def as_payload(self) -> dict[str, Any]:
        """The group as JSON-safe data, which `from_payload` reads back."""
        payload: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return payload

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> AlertGroup:
        """Read what `as_payload` wrote.

        Raises:
            ValueError: a field is missing or has the wrong type.
        """
        return _ADAPTER.validate_python(dict(payload))


_ADAPTER = TypeAdapter(AlertGroup)
