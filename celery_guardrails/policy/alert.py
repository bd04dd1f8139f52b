"""What a task says about its alerts: from where on they open, or that there are none.

Owns `DeadLetterThreshold`, which the settings use, too, and reading a policy's `alert`. It must not know what an alert
is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from pydantic import PlainValidator

from celery_guardrails.clock import shown
from celery_guardrails.errors import nearest
from celery_guardrails.policy.field import problem, read_duration

__all__ = ["AlertField", "DeadLetterThreshold", "TaskAlerts", "ThresholdField"]

_SIGNALS = ("dead_letter",)
_KEYS = ("count", "within")


@dataclass(frozen=True)
class DeadLetterThreshold:
    """So many dead letters within this time open an alert.

    Args:
        count: 1 or more. Default 1.
        within: default 5 minutes.
    """

    count: int = 1
    within: timedelta = timedelta(minutes=5)

    def __str__(self) -> str:
        return f"{self.count} within {shown(self.within)}"


@dataclass(frozen=True)
class TaskAlerts:
    """A task's own word on its alerts.

    Args:
        muted: no alert is ever posted for it; its dead letters are archived as ever.
        dead_letter: its own threshold; `None`: that of the settings.
    """

    muted: bool = False
    dead_letter: DeadLetterThreshold | None = None

    def __str__(self) -> str:
        return "none" if self.muted else f"dead letters: {self.dead_letter}"


def _read_threshold(value: Any) -> DeadLetterThreshold:
    """Read `{"count": 20, "within": "5m"}`."""
    if isinstance(value, DeadLetterThreshold):
        return value
    given = _checked(value, _KEYS, 'write {"count": 20, "within": "5m"}')
    count = given.get("count", 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise problem(count, "is not a whole number, 1 or more", at="count")
    return DeadLetterThreshold(count, read_duration(given.get("within", "5m")))


def _read(value: Any) -> TaskAlerts | None:
    if value is None or isinstance(value, TaskAlerts):
        return value
    if value is False:
        return TaskAlerts(muted=True)
    if value is True:
        raise problem(value, "is the default: leave it out", 'write False or {"dead_letter": {"count": 20}}')
    given = _checked(value, _SIGNALS, 'write False or {"dead_letter": {"count": 20, "within": "5m"}}')
    return TaskAlerts(dead_letter=_read_threshold(given["dead_letter"])) if given else None


def _checked(value: Any, known: tuple[str, ...], hint: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise problem(value, "is not a dict", hint)
    for key in value:
        if key not in known:
            near = nearest(str(key), known)
            listed = ", ".join(known)
            raise problem(key, f"is not one of {listed}", f"did you mean {near}?" if near else None)
    return value


AlertField = Annotated[TaskAlerts | None, PlainValidator(_read)]
ThresholdField = Annotated[DeadLetterThreshold, PlainValidator(_read_threshold)]
