"""What a group keeps of the letters that it counts: their errors, who is affected, a few to start looking at.

Owns these small collections and their bounds: 20 distinct values a name, 10 names, the last 3 samples. It must not know
when a group notifies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from celery_guardrails.letters.record import Named, values_of

__all__ = ["Affected", "ErrorCount", "Sample", "latest", "rank", "widen", "with_value", "worst"]

_MOST_VALUES = 20
_MOST_NAMES = 10
_SAMPLES = 3
_VALUE_LIMIT = 100
_SEVERITIES = {"info": 0, "warning": 1, "error": 2, "critical": 3}


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


def latest(samples: tuple[Sample, ...], new: Sample) -> tuple[Sample, ...]:
    """The last few letters, each once; a letter that died again is the newest."""
    return (*(sample for sample in samples if sample.letter_id != new.letter_id), new)[-_SAMPLES:]


def worst(one: str, other: str) -> str:
    """The worse of two severities; one that is not known counts as `error`."""
    return one if one == other else max(one, other, key=rank)


def rank(severity: str) -> int:
    """A severity as a number: the worse, the larger."""
    return _SEVERITIES.get(severity, _SEVERITIES["error"])


def widen(affected: Mapping[str, Affected], new: Mapping[str, Named]) -> dict[str, Affected]:
    """These values and the new ones."""
    widened = dict(affected)
    for name, named in new.items():
        if name not in widened and len(widened) >= _MOST_NAMES:
            continue
        known = widened.get(name, Affected())
        for value in values_of(named):
            known = with_value(known, value[:_VALUE_LIMIT])
        widened[name] = known
    return widened


def with_value(known: Affected, value: str) -> Affected:
    """These values and one more."""
    if value in known.values:
        return known
    if len(known.values) < _MOST_VALUES:
        return Affected((*known.values, value), known.more)
    return Affected(known.values, True)
