"""What a task says about its alerts: thresholds of its own, signals that are none, or that there are no alerts at all.

Owns reading a policy's `alert`, and `Limits`, the thresholds of one signal task by task. It must not know what an alert
is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from pydantic import PlainValidator, ValidationError

from celery_guardrails.errors import nearest
from celery_guardrails.policy import faults
from celery_guardrails.policy.field import problem
from celery_guardrails.policy.threshold import Section, Thresholds

__all__ = ["AlertField", "Limits", "TaskAlerts", "limits"]

_EXAMPLE = 'write False or {"dead_letter": {"count": 20, "within": "5m"}}'
_MODELS: Mapping[str, type[Section]] = {
    signal: type(threshold) for signal, threshold in Thresholds() if isinstance(threshold, Section)
}
"""Each signal that is watched task by task, and the threshold that the settings have for it."""

T = TypeVar("T", bound=Section)


@dataclass(frozen=True)
class TaskAlerts:
    """A task's own word on its alerts.

    Args:
        muted: no alert is ever posted for it; its dead letters are archived as ever.
        own: by signal, a threshold of which only the fields that were given count; `None`: the signal is no alert.
    """

    muted: bool = False
    own: Mapping[str, Section | None] = field(default_factory=dict)

    def threshold(self, usual: T, signal: str) -> T | None:
        """The threshold of this task: that of the settings, with the fields that its policy gives.

        Returns:
            `None`: the signal is no alert for this task.
        """
        if self.muted:
            return None
        own = self.own.get(signal, usual)
        return None if own is None else usual.model_copy(update=_given(own)) if own is not usual else usual

    def as_data(self) -> bool | dict[str, Any]:
        """What a user writes for it: `False`, or the fields that are given by signal."""
        if self.muted:
            return False
        return {signal: False if own is None else _given(own) for signal, own in self.own.items()}


@dataclass(frozen=True)
class Limits(Generic[T]):
    """The thresholds of one signal.

    Args:
        usual: that of the settings.
        own: those of the tasks whose policy says otherwise; `None`: the signal is no alert for this task.
    """

    usual: T
    own: Mapping[str, T | None] = field(default_factory=dict)

    def of(self, task: str) -> T | None:
        """The threshold of a task; `None`: the signal is no alert for it."""
        return self.own.get(task, self.usual)

    @property
    def different(self) -> list[T]:
        """Each threshold that counts for some task, once."""
        found = [self.usual]
        for each in self.own.values():
            if each is not None and each not in found:
                found.append(each)
        return found


def limits(usual: T, signal: str, words: Mapping[str, TaskAlerts | None]) -> Limits[T]:
    """The thresholds of a signal, from that of the settings and what the tasks' policies say.

    Args:
        usual: that of the settings.
        signal: its name, as in the settings.
        words: by task, what its policy says about its alerts.
    """
    return Limits(usual, {task: word.threshold(usual, signal) for task, word in words.items() if word is not None})


def _given(own: Section) -> dict[str, Any]:
    return {name: getattr(own, name) for name in type(own).model_fields if name in own.model_fields_set}


def _read(value: Any) -> TaskAlerts | None:
    if value is None or isinstance(value, TaskAlerts):
        return value
    if value is False:
        return TaskAlerts(muted=True)
    if value is True:
        raise problem(value, "is the default: leave it out", 'write False or {"dead_letter": {"count": 20}}')
    if not isinstance(value, Mapping):
        raise problem(value, "is not a dict", _EXAMPLE)
    own = {_known(key, _MODELS): _read_threshold(key, each) for key, each in value.items()}
    return TaskAlerts(own=own) if own else None


def _read_threshold(signal: str, value: Any) -> Section | None:
    model = _MODELS[signal]
    if value is False:
        return None
    if value is True:
        raise problem(value, "is neither False nor a dict", f"write False or a dict of {_listed(model)}", signal)
    if isinstance(value, model):
        return value
    if not isinstance(value, Mapping):
        raise problem(value, "is not a dict", f"write False or a dict of {_listed(model)}", signal)
    for key in value:
        _known(key, model.model_fields, signal)
    # whoever gives a threshold for a signal that is off by default wants it
    asked = {"enabled": True} if "enabled" in model.model_fields else {}
    try:
        return model.model_validate({**asked, **value})
    except ValidationError as error:
        raise _problem(signal, error) from None


def _problem(signal: str, error: ValidationError) -> Exception:
    """The first fault of a threshold, in our words."""
    entry = error.errors(include_url=False)[0]
    context, at = entry.get("ctx", {}), ".".join([signal, *map(str, entry["loc"])])
    if entry["type"] == "guardrails":
        return problem(entry["input"], context["problem"], context["hint"] or None, at)
    words = faults.WORDS.get(entry["type"], entry["msg"][:1].lower() + entry["msg"][1:])
    return problem(entry["input"], words.format(kind=type(entry["input"]).__name__, **context), None, at)


def _known(key: Any, known: Mapping[str, Any], at: str = "") -> str:
    if key not in known:
        near = nearest(str(key), known)
        raise problem(key, f"is not one of {_listed(known)}", f"did you mean {near}?" if near else None, at)
    return str(key)


def _listed(known: Mapping[str, Any] | type[Section]) -> str:
    return ", ".join(known if isinstance(known, Mapping) else known.model_fields)


AlertField = Annotated[TaskAlerts | None, PlainValidator(_read)]
