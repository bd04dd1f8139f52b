"""One problem as data: what an alert group has counted and where it stands.

Owns `AlertGroup`, its state, and how a dead letter is added to its figures, all of bounded size: at most 50
fingerprints, 20 distinct affected values a name, 10 names, 20 names of unknown tasks, and the last 3 samples for
tracing.
It must not know when a group notifies (engine), nor in which words (render).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from hashlib import sha256
from typing import Any

from pydantic import TypeAdapter

from celery_guardrails.alerts.event import AlertEvent, LettersChanged, group_key
from celery_guardrails.letters.record import Named, values_of
from celery_guardrails.policy.decision import Reason
from celery_guardrails.store.record import Before

__all__ = ["UNKNOWN_TASKS", "Affected", "AlertGroup", "ErrorCount", "GroupState", "Sample"]

UNKNOWN_TASKS = "unknown tasks"
"""Stands in place of the task in the group of all tasks that workers do not know."""
_MOST_ERRORS = 50
_MOST_VALUES = 20
_MOST_NAMES = 10
_SAMPLES = 3
_VALUE_LIMIT = 100
_PERMANENT, _LOST = Reason.PERMANENT_ERROR.value, Reason.WORKER_LOST.value
_SEVERITIES = {"info": 0, "warning": 1, "error": 2, "critical": 3}


class GroupState(str, Enum):
    """Where a group stands: `idle` -> `pending` -> `open` -> `quiet` -> `resolved`."""

    IDLE = "idle"
    PENDING = "pending"
    OPEN = "open"
    QUIET = "quiet"
    RESOLVED = "resolved"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class ErrorCount:
    """One fingerprint of a group: how many letters, and the latest error type and message line."""

    count: int
    error: str
    message: str


@dataclass(frozen=True)
class Affected:
    """Distinct values, such as those of one `affected_by` name; `more`: there were others beyond the first 20."""

    values: tuple[str, ...] = ()
    more: bool = False


@dataclass(frozen=True)
class Sample:
    """One dead letter to start looking at: its id in the archive and its ids for tracing."""

    letter_id: str
    correlation: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AlertGroup:
    """What one group has counted in its present period.

    Figures count letters, not deaths. A letter that is requeued and dies again in the same period counts once, under
    its latest error; `again` counts these further deaths (`again_base`: at `spoke_at`). Of the letters, `doubtful` may
    have run already, `unknown` failed with an error of unknown kind, and `killers` ran in several workers that died.

    `first_at` and `last_at` are when letters died. `pending_at`, `seen_at`, `edited_at`, `resolved_at` and `spoke_at`
    (the last message in the channel) are by the guardian's clock, so that old letters found late are not resolved at
    once. `base` is the total at `spoke_at`. `posted`: this period's message was posted. `unsaid`: the message no longer
    shows everything. `ordinals` counts the intents of each kind. `unknown_names` makes it the group of the tasks that
    workers do not know, and holds their names.
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
    pending_at: datetime | None = None
    seen_at: datetime | None = None
    spoke_at: datetime | None = None
    edited_at: datetime | None = None
    resolved_at: datetime | None = None
    errors: dict[str, ErrorCount] = field(default_factory=dict)
    other_errors: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    affected: dict[str, Affected] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    letters: LettersChanged | None = None
    ordinals: dict[str, int] = field(default_factory=dict)
    unsaid: bool = False
    posted: bool = False

    @classmethod
    def idle(cls, event: AlertEvent, group_by: tuple[str, ...] = ("task",)) -> AlertGroup:
        """The empty group that `event` would be counted in."""
        key, environment = group_key(event, group_by), event.environment
        if event.names_unknown_task:
            return cls(key, environment, UNKNOWN_TASKS, unknown_names=Affected())
        return cls(key, environment, event.task, event.fingerprint if "error" in group_by else None)

    @property
    def alert_id(self) -> str:
        """Eight characters that name this group to people, the same in every period."""
        return sha256(self.key.encode()).hexdigest()[:8]

    @property
    def critical(self) -> bool:
        """Whether any of its dead letters was critical."""
        return self.severity == "critical"

    def add(self, event: AlertEvent, now: datetime) -> AlertGroup:
        """Count one dead letter; only the next tick notifies."""
        group = self._counted(event)
        return replace(
            group,
            severity=event.severity if not self.total else _worst(self.severity, event.severity),
            owner=event.owner or self.owner,
            runbook=event.runbook or self.runbook,
            queue=event.queue or self.queue,
            version=event.version or self.version,
            first_at=min(self.first_at, event.at) if self.first_at else event.at,
            last_at=max(self.last_at, event.at) if self.last_at else event.at,
            seen_at=now,
            affected=_widen(self.affected, event.affected),
            unknown_names=None if self.unknown_names is None else _with(self.unknown_names, event.task),
            samples=_latest(self.samples, Sample(event.letter_id, dict(event.correlation))),
            unsaid=True,
        )

    def _counted(self, event: AlertEvent) -> AlertGroup:
        """The figures with this letter in them, once."""
        before, group = event.before, self
        if before is not None and self.first_at is not None and before.died_at >= self.first_at:
            group = replace(self._without(before), again=self.again + 1)
        known = group.errors.get(event.fingerprint)
        errors, other = group.errors, group.other_errors
        if known or len(errors) < _MOST_ERRORS:
            counted = ErrorCount((known.count if known else 0) + 1, event.error, event.message)
            errors = {**errors, event.fingerprint: counted}
        else:
            other += 1
        return replace(
            group,
            total=group.total + 1,
            errors=errors,
            other_errors=other,
            reasons={**group.reasons, event.reason: group.reasons.get(event.reason, 0) + 1},
            doubtful=group.doubtful + event.may_have_run,
            unknown=group.unknown + (event.unknown and event.reason == _PERMANENT),
            killers=group.killers + (event.crashes > 1 and event.reason == _LOST),
        )

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
        """The same group, empty, at the start of its next period."""
        names = None if self.unknown_names is None else Affected()
        fresh = AlertGroup(self.key, self.environment, self.task, self.fingerprint, names)
        return replace(fresh, period=self.period + 1)

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


def _latest(samples: tuple[Sample, ...], new: Sample) -> tuple[Sample, ...]:
    """The last few letters, each once; a letter that died again is the newest."""
    return (*(sample for sample in samples if sample.letter_id != new.letter_id), new)[-_SAMPLES:]


def _worst(one: str, other: str) -> str:
    return max(one, other, key=lambda severity: _SEVERITIES.get(severity, _SEVERITIES["error"]))


def _widen(affected: Mapping[str, Affected], new: Mapping[str, Named]) -> dict[str, Affected]:
    widened = dict(affected)
    for name, named in new.items():
        if name not in widened and len(widened) >= _MOST_NAMES:
            continue
        known = widened.get(name, Affected())
        for value in values_of(named):
            known = _with(known, value[:_VALUE_LIMIT])
        widened[name] = known
    return widened


def _with(known: Affected, value: str) -> Affected:
    if value in known.values:
        return known
    if len(known.values) < _MOST_VALUES:
        return Affected((*known.values, value), known.more)
    return Affected(known.values, True)


_ADAPTER = TypeAdapter(AlertGroup)
