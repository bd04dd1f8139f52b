"""What the alert engine is told: a dead letter, time passing, and what became of the letters.

Owns `AlertEvent` (ref_id, signal, environment, task, at, error, message, fingerprint, reason, category, severity,
owner, runbook, queue, version, affected, correlation, letter_id), `Tick`, `LettersChanged` and the group key.
It must not know how a group reacts, nor how an event is stored. Messages are redacted before they come here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter

from celery_guardrails.letters.record import Letter

__all__ = ["AlertEvent", "EngineEvent", "LettersChanged", "Tick", "group_key"]

_MESSAGE_LIMIT = 500


@dataclass(frozen=True)
class AlertEvent:
    """One dead letter, as far as an alert needs it.

    `ref_id` is the id of this death: the same one twice counts once. `letter_id` is the id under which the archive
    keeps the work. `at` is when it died (aware UTC), `error` a dotted type name, `message` one redacted line.
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
    affected: Mapping[str, str] = field(default_factory=dict)
    correlation: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_letter(cls, letter: Letter) -> AlertEvent:
        """The event that a freshly archived dead letter causes."""
        return cls(
            ref_id=letter.id,
            environment=letter.environment,
            task=letter.task,
            at=letter.died_at,
            error=letter.failure.type,
            message=" ".join(letter.failure.message.split())[:_MESSAGE_LIMIT],
            fingerprint=letter.failure.fingerprint,
            reason=letter.reason.value,
            category=letter.failure.category.value,
            letter_id=letter.origin_id,
            severity=letter.severity,
            owner=letter.owner,
            runbook=letter.runbook,
            queue=letter.queue,
            version=letter.version,
            affected=dict(letter.affected),
            correlation=dict(letter.correlation),
        )

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
    """The key of the group that counts this event: environment and task, and the fingerprint with `"error"`."""
    parts = [event.environment, event.task]
    if "error" in group_by:
        parts.append(event.fingerprint)
    return "/".join(quote(part, safe=".:", errors="replace") for part in parts)


_ADAPTER = TypeAdapter(AlertEvent)
