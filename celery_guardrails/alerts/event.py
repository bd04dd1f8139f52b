"""What the alert engine is told: a dead letter, time passing, and what became of the letters.

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
_UNKNOWN_KEY = "!unknown"  # no quoted name has such a character
_MOST_VALUES, _NAME_LIMIT, _VALUE_LIMIT = 20, 100, 200


@dataclass(frozen=True)
class AlertEvent:
    """One dead letter, as far as an alert needs it.

    `ref_id` is the id of this death: the same one twice counts once. `letter_id` is the id under which the archive
    keeps the work. `at` is when it died (aware UTC), `error` a dotted type name, `message` one redacted line.
    `crashes` counts the workers that were lost with it, `unknown` says that nobody knows its error's kind, and `before`
    is how the letter stood when it is one that died again.
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
        """The event that a freshly archived dead letter causes.

        What the letter says is cut as the archive cuts it: so bounded, every store and every sink can hold it.

        Args:
            letter: the letter.
            before: how it stood, if it is no new one.
            now: when it was archived; an instant that no right clock says is taken for it. `None`: all are right.
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
    """Time passes. `flush` means that nobody will look again soon: do not wait for `group_wait` or `edit_interval`."""

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
    """Some of the names, and of the values one more than a group shows."""

    def cut_to_size(value: Named) -> Named:
        if isinstance(value, str):
            return shortened(value, _VALUE_LIMIT)
        return tuple(shortened(each, _VALUE_LIMIT) for each in value[: _MOST_VALUES + 1])

    some = itertools.islice(named.items(), _MOST_VALUES)
    return {shortened(name, _NAME_LIMIT): cut_to_size(value) for name, value in some}


_ADAPTER = TypeAdapter(AlertEvent)
