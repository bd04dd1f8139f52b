"""What the alert engine reacts to: a dead letter, a condition, time that passes, new states of letters, people.

Owns `AlertEvent` (ref_id, signal, environment, task, at, error, message, fingerprint, reason, category, severity,
owner, runbook, queue, version, affected, correlation, letter_id, may_have_run, crashes, unknown, before), the other
events and the group key.
It must not know how a group reacts, nor how an event is stored. Messages are redacted before they come here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter

from celery_guardrails.alerts.condition import OWN_HEALTH, Condition
from celery_guardrails.letters.record import Letter, Named, values_of
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.store.column import cut, cut_or_none, key_of, plausible, reference_of, shortened
from celery_guardrails.store.record import Before

__all__ = [
    "Acknowledged",
    "AlertEvent",
    "EngineEvent",
    "LettersChanged",
    "MembersChanged",
    "PutBack",
    "StillFailing",
    "Tick",
    "Unacknowledged",
    "digest_key",
    "group_key",
    "read_event",
]

_MESSAGE_LIMIT, _RUNBOOK_LIMIT = 500, 2000
# `quote` escapes `!`, so no task name is one of these keys
_UNKNOWN_KEY, _HEALTH_KEY, _DIGEST_KEY = "!unknown", "!guardrails", "!digest"
_MOST_VALUES, _NAME_LIMIT, _VALUE_LIMIT = 20, 100, 200


@dataclass(frozen=True)
class AlertEvent:
    """One dead letter, as far as an alert needs it.

    `ref_id` is the id of this death: the same death counts once. `letter_id` is the id under which the archive keeps
    the work. `at` is when it died (aware UTC), `error` a dotted type name, `message` one redacted line. `crashes`
    counts the workers that died while they ran it. `unknown`: the error is of unknown kind. `before`: the letter's
    earlier state, where it died again.
    """

    ref_id: str
    environment: str
    task: str
    at: datetime
    error: str
    message: str
    fingerprint: str
    reason: str
    category: str
    letter_id: str
    signal: str = "dead_letter"
    severity: str = "error"
    owner: str | None = None
    runbook: str | None = None
    queue: str = ""
    version: str | None = None
    affected: Mapping[str, Named] = field(default_factory=dict)
    correlation: Mapping[str, str] = field(default_factory=dict)
    may_have_run: bool = False
    crashes: int = 0
    unknown: bool = False
    before: Before | None = None

    @classmethod
    def from_letter(cls, letter: Letter, before: Before | None = None, now: datetime | None = None) -> AlertEvent:
        """The event of a dead letter that has just been archived.

        Texts are cut as the archive cuts them, so that every store and every sink can hold them.

        Args:
            letter: the letter.
            before: its earlier state, if it died before.
            now: when it was archived; replaces a time of death that cannot be right. `None`: keep that time.
        """
        return cls(
            ref_id=reference_of(letter.id),
            environment=cut(letter.environment),
            task=cut(letter.task),
            at=letter.died_at if now is None else plausible(letter.died_at, now),
            error=cut(letter.failure.type),
            message=shortened(" ".join(letter.failure.message.split()), _MESSAGE_LIMIT),
            fingerprint=cut(letter.failure.fingerprint),
            reason=letter.reason.value,
            category=letter.failure.category.value,
            letter_id=key_of(letter.origin_id),
            severity=cut(letter.severity),
            owner=cut_or_none(letter.owner),
            runbook=None if letter.runbook is None else shortened(letter.runbook, _RUNBOOK_LIMIT),
            queue=cut(letter.queue),
            version=cut_or_none(letter.version),
            affected=_few(letter.affected),
            correlation={name: ", ".join(values_of(value)) for name, value in _few(letter.correlation).items()},
            may_have_run=letter.may_have_run,
            crashes=letter.crashes,
            unknown=letter.failure.category is Category.UNKNOWN and letter.failure.transient is None,
            before=before,
        )

    @property
    def names_unknown_task(self) -> bool:
        """Whether its message named a task that the worker does not have."""
        return self.reason == Reason.UNKNOWN_TASK

    def as_payload(self) -> dict[str, Any]:
        """The event as JSON-safe data, which `from_payload` reads back."""
        payload: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return payload

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> AlertEvent:
        """Read what `as_payload` wrote.

        Raises:
            ValueError: a field is missing or has the wrong type.
        """
        return _ADAPTER.validate_python(dict(payload))


@dataclass(frozen=True)
class Tick:
    """Time passes.

    Attributes:
        flush: nobody may look again soon, so do not wait for `group_wait` or `edit_interval`.
        silenced_until: the end of the silence that covers the group now; `None`: none does.
        inhibited: another trouble explains this group's; it only counts.
        digested: so many groups open at once that this one is shown in the digest instead.
    """

    flush: bool = False
    silenced_until: datetime | None = None
    inhibited: bool = False
    digested: bool = False


@dataclass(frozen=True)
class LettersChanged:
    """How many dead letters of a group's task are now in which state; `dead` ones still need a decision."""

    dead: int = 0
    requeued: int = 0
    recovered: int = 0
    discarded: int = 0


@dataclass(frozen=True)
class PutBack:
    """Somebody has requeued letters of the group, and why. `audited` is how far the audit trail was read for it.

    Without letters, it only says how far.
    """

    audited: int
    by: str = ""
    reason: str = ""
    letters: int = 0


@dataclass(frozen=True)
class StillFailing:
    """Attempts of the group's task fail, even if none of its work is dead yet: it is not quiet."""


@dataclass(frozen=True)
class Acknowledged:
    """Somebody takes care of the group; `until` is when that ends if it still fails."""

    by: str
    until: datetime


@dataclass(frozen=True)
class Unacknowledged:
    """Somebody no longer takes care of the group."""

    by: str


@dataclass(frozen=True)
class MembersChanged:
    """What a digest shows now: the number of its groups, the sum of their figures, and the largest of them."""

    groups: int
    total: int
    largest: tuple[tuple[str, int], ...]


EngineEvent = (
    AlertEvent
    | Condition
    | Tick
    | LettersChanged
    | PutBack
    | StillFailing
    | Acknowledged
    | Unacknowledged
    | MembersChanged
)
"""Everything that `step` reacts to."""


def read_event(payload: Mapping[str, Any]) -> AlertEvent | Condition:
    """Read what `as_payload` of either wrote.

    Raises:
        ValueError: a field is missing or has the wrong type.
    """
    if payload.get("signal", "dead_letter") == "dead_letter":
        return AlertEvent.from_payload(payload)
    return Condition.from_payload(payload)


def group_key(event: AlertEvent | Condition, group_by: Sequence[str] = ("task",)) -> str:
    """The key of the group that counts this event: environment and task, and the fingerprint with `"error"`.

    Tasks that the worker does not know are one group, however many names somebody makes up. A condition is about the
    whole task, so with `"error"` it has a group of its own.
    """
    parts = [event.environment, event.task]
    if isinstance(event, AlertEvent) and "error" in group_by:
        parts.append(event.fingerprint)
    quoted = [quote(part, safe=".:", errors="replace") for part in parts]
    if isinstance(event, AlertEvent) and event.names_unknown_task:
        quoted[1:] = [_UNKNOWN_KEY]
    elif isinstance(event, Condition) and event.task == OWN_HEALTH:
        quoted[1:] = [_HEALTH_KEY]
    return cut("/".join(quoted))


def digest_key(environment: str) -> str:
    """The key of the group that stands for many groups of an environment that opened at once."""
    return cut(f"{quote(environment, safe='.:', errors='replace')}/{_DIGEST_KEY}")


def _few(named: Mapping[str, Named]) -> dict[str, Named]:
    """The first 20 names, each with 21 values at most: one more than a group keeps, which shows that there are more."""

    def cut_to_size(value: Named) -> Named:
        if isinstance(value, str):
            return shortened(value, _VALUE_LIMIT)
        return tuple(shortened(each, _VALUE_LIMIT) for each in value[: _MOST_VALUES + 1])

    some = itertools.islice(named.items(), _MOST_VALUES)
    return {shortened(name, _NAME_LIMIT): cut_to_size(value) for name, value in some}


_ADAPTER = TypeAdapter(AlertEvent)
