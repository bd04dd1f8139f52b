"""What the alert engine reacts to: a dead letter, time that passes, and new states of letters.

Owns `AlertEvent` (ref_id, signal, environment, task, at, error, message, fingerprint, reason, category, severity,
owner, runbook, queue, version, affected, correlation, letter_id, may_have_run, crashes, unknown, before), `Tick`,
`LettersChanged` and the group key.
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

from celery_guardrails.letters.record import Letter, Named, values_of
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.store.column import cut, cut_or_none, key_of, plausible, reference_of, shortened
from celery_guardrails.store.record import Before

__all__ = ["AlertEvent", "EngineEvent", "LettersChanged", "Tick", "group_key"]

_MESSAGE_LIMIT, _RUNBOOK_LIMIT = 500, 2000
_UNKNOWN_KEY = "!unknown"  # `quote` escapes `!`, so no task name is this key
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
    """Time passes. `flush`: nobody may look again soon, so do not wait for `group_wait` or `edit_interval`."""

    flush: bool = False


@dataclass(frozen=True)
class LettersChanged:
    """How many dead letters of a group's task are now in which state; `dead` ones still need a decision."""

    dead: int = 0
    requeued: int = 0
    recovered: int = 0
    discarded: int = 0


EngineEvent = AlertEvent | Tick | LettersChanged
"""Everything that `step` reacts to."""


def group_key(event: AlertEvent, group_by: Sequence[str] = ("task",)) -> str:
    """The key of the group that counts this event: environment and task, and the fingerprint with `"error"`.

    Tasks that the worker does not know are one group, however many names somebody makes up.
    """
    parts = [event.environment, event.task]
    if "error" in group_by:
        parts.append(event.fingerprint)
    quoted = [quote(part, safe=".:", errors="replace") for part in parts]
    if event.names_unknown_task:
        quoted[1:] = [_UNKNOWN_KEY]
    return cut("/".join(quoted))


def _few(named: Mapping[str, Named]) -> dict[str, Named]:
    """The first 20 names, each with 21 values at most: one more than a group keeps, which shows that there are more."""

    def cut_to_size(value: Named) -> Named:
        if isinstance(value, str):
            return shortened(value, _VALUE_LIMIT)
        return tuple(shortened(each, _VALUE_LIMIT) for each in value[: _MOST_VALUES + 1])

    some = itertools.islice(named.items(), _MOST_VALUES)
    return {shortened(name, _NAME_LIMIT): cut_to_size(value) for name, value in some}


_ADAPTER = TypeAdapter(AlertEvent)
