"""A signal that holds for a while, such as "overdue": it begins and ends, where a dead letter is only counted.

Owns `Condition` and what is known of each signal. It must not know how a condition is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

__all__ = ["OWN_HEALTH", "SIGNALS", "Condition", "condition_name", "parts_of"]

SIGNALS: Mapping[str, str] = {
    "dead_letter": "error",
    "failed_attempts": "warning",
    "error_rate": "warning",
    "queue_latency": "warning",
    "throughput": "error",
    "overdue": "error",
    "unreconciled": "critical",
    "no_worker": "error",
    "spool_growing": "error",
    "sink_down": "error",
}
"""Every signal and its severity."""

OWN_HEALTH = "!guardrails"
"""Stands in place of the task for signals about guardrails itself; no task has this name."""


@dataclass(frozen=True)
class Condition:
    """A signal that began to hold, still holds with other words, or has ended.

    Attributes:
        ref_id: unique, at most 64 characters: the same change counts once.
        signal: one of `SIGNALS`.
        environment: as in the settings.
        task: the task's name, or `OWN_HEALTH`.
        at: when it changed, aware UTC.
        holds: whether it is true now.
        summary: one sentence for people; redacted before it comes here.
        subject: what it is about where one task may have several, such as the entry of a beat schedule.
        severity: that of the signal unless the task's policy says otherwise.
        owner, runbook, queue: as in a policy.
    """

    ref_id: str
    signal: str
    environment: str
    task: str
    at: datetime
    holds: bool
    summary: str = ""
    subject: str = ""
    severity: str = "error"
    owner: str | None = None
    runbook: str | None = None
    queue: str = ""

    @property
    def name(self) -> str:
        """The signal and what it is about: one group may have several conditions."""
        return condition_name(self.signal, self.subject)

    def as_payload(self) -> dict[str, Any]:
        """The condition as JSON-safe data, which `from_payload` reads back."""
        payload: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return payload

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Condition:
        """Read what `as_payload` wrote.

        Raises:
            ValueError: a field is missing or has the wrong type.
        """
        return _ADAPTER.validate_python(dict(payload))


def condition_name(signal: str, subject: str) -> str:
    """The name of a condition in its group."""
    return f"{signal}/{subject}" if subject else signal


def parts_of(name: str) -> tuple[str, str]:
    """The signal and the subject of a condition's name."""
    signal, _, subject = name.partition("/")
    return signal, subject


_ADAPTER = TypeAdapter(Condition)
