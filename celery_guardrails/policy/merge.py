"""Merges several declarations into the policy in force, field by field, and says where each field came from.

Pure. It must not know where the declarations stand.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from celery_guardrails.errors import Fault
from celery_guardrails.policy import faults
from celery_guardrails.policy.policy import Policy

__all__ = ["Effective", "Layer", "match_pattern", "merge"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Layer:
    """One declaration; `guardrails policy` shows `name` as the place where a field came from.

    `explicit`: it is a policy of this task, its class or its name pattern. Not `explicit`: it holds only where no such
    policy sets the field.
    """

    name: str
    policy: Policy
    explicit: bool = True


@dataclass(frozen=True, slots=True)
class Effective:
    """The policy in force, and for each of its fields the layer that set it, or `"default"`.

    `explicit` are the fields that an explicit layer set.
    """

    policy: Policy
    provenance: dict[str, str]
    explicit: frozenset[str] = frozenset()


def merge(layers: Sequence[Layer], task: str | None = None) -> Effective:
    """Merge declarations; for each field the first layer that sets it wins.

    Args:
        layers: strongest first.
        task: the task's name, for the fault.

    Raises:
        ConfigurationError: together they bound the task neither by attempts nor by a deadline. While faults are
            collected, the deadline is then left at its default.
    """
    values: dict[str, Any] = {}
    provenance = dict.fromkeys(Policy.model_fields, "default")
    explicit: set[str] = set()
    for layer in layers:
        for name in layer.policy.model_fields_set - values.keys():
            values[name] = getattr(layer.policy, name)
            provenance[name] = layer.name
            if layer.explicit:
                explicit.add(name)
    if values.get("max_attempts", 0) is None and values.get("deadline", 0) is None:
        where = f"{provenance['max_attempts']} sets max_attempts=None and {provenance['deadline']} sets deadline=None"
        faults.report([Fault("deadline", "None", where, task, 'write deadline="2h"')])
        del values["deadline"]
        provenance["deadline"] = "default"
    # Each value was validated in its layer.
    return Effective(Policy.model_construct(set(values), **values), provenance, frozenset(explicit))


def match_pattern(patterns: Mapping[str, T], task_name: str) -> list[tuple[str, T]]:
    """The entries whose pattern matches, most specific first.

    An exact name is the most specific, then the longest literal start, then the most literal characters. Case
    matters; `*`, `?` and `[...]` mean what they mean to `fnmatch`.
    """
    matching = [(pattern, value) for pattern, value in patterns.items() if fnmatch.fnmatchcase(task_name, pattern)]
    return sorted(matching, key=lambda entry: _specificity(entry[0], task_name), reverse=True)


def _specificity(pattern: str, task_name: str) -> tuple[bool, int, int, str]:
    start = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    literal = re.sub(r"\[[^]]*\]|[*?]", "", pattern)
    return pattern == task_name, len(start), len(literal), pattern
