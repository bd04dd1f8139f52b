"""Finds the argument names in `affected_by`, `correlate` and `redact` that no parameter has: they are misspelled.

Such a name selects no argument, and nothing else reports it. Owns the comparison with the tasks' signatures. A class, a
pattern or the settings may give one name to several tasks: the name is right if one of the tasks has such a parameter.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from celery import Task

from celery_guardrails.errors import Fault, nearest
from celery_guardrails.policy import Effective

__all__ = ["misnamed", "parameters"]

_FIELDS = ("affected_by", "correlate", "redact")


@dataclass(slots=True)
class _Declared:
    """The argument names that one layer gives one field, and the tasks that get them from this layer."""

    origin: str
    tasks: list[str] = field(default_factory=list)
    parameters: set[str] = field(default_factory=set)
    missing: dict[str, None] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)

    @property
    def is_shared(self) -> bool:
        """Whether the layer is for tasks in general, not for this task alone."""
        return self.origin not in ("decorator", f"policies[{self.tasks[0]}]")


def misnamed(policies: Iterable[tuple[Task, Effective]]) -> tuple[list[Fault], list[str]]:
    """The names that match no parameter: the faults, and a remark in words for each name that may be meant so.

    Args:
        policies: the tasks under guard with their policies in force.
    """
    layers: dict[tuple[str, str], _Declared] = {}
    for task, effective in policies:
        names = parameters(task)
        for setting in _FIELDS:
            origin = effective.provenance[setting]
            own = origin in ("decorator", f"policies[{task.name}]")
            layer = layers.setdefault((setting, f"{origin} {task.name}" if own else origin), _Declared(origin))
            layer.tasks.append(task.name)
            layer.parameters |= names or set()
            for name in getattr(effective.policy, setting):
                has = names is None or _has(names, name, setting)
                (layer.found.add if has else layer.missing.setdefault)(name)
    faults: list[Fault] = []
    remarks: list[str] = []
    for (setting, _), layer in layers.items():
        for name in layer.missing:
            if name not in layer.found:
                _report(setting, name, layer, faults, remarks)
    return faults, remarks


def parameters(task: Task) -> set[str] | None:
    """The names of the arguments that the task takes; `None`: it takes any name, or its signature is not readable."""
    try:
        found = inspect.signature(task.run).parameters.values()
    except (AttributeError, TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in found):
        return None
    return {p.name for p in found if p.kind is not p.VAR_POSITIONAL}


def _report(setting: str, name: str, layer: _Declared, faults: list[Fault], remarks: list[str]) -> None:
    near = nearest(name.partition(".")[0], layer.parameters)
    hint = f"did you mean {near}?" if near else f"parameters are {', '.join(sorted(layer.parameters)) or 'none'}"
    if setting == "redact":
        what = f"any task that it is for, such as {layer.tasks[0]}" if layer.is_shared else layer.tasks[0]
        remarks.append(
            f"redact: {layer.origin} names {name}, which is not a parameter of {what}: it hides only values under that "
            f"name inside an argument ({hint})"
        )
    elif layer.is_shared:
        remarks.append(
            f"{setting}: {layer.origin} names {name}, which is not a parameter of any task that it is for ({hint})"
        )
    else:
        faults.append(Fault(setting, repr(name), "is not a parameter of the task", layer.tasks[0], hint))


def _has(names: set[str], name: str, setting: str) -> bool:
    if setting == "redact":  # ignores case and separators
        return _squeezed(name) in map(_squeezed, names)
    return name.partition(".")[0] in names


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
