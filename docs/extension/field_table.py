"""The tables of settings, policy fields and environment variables, read from the models that validate them.

Owns how a field's type, range and default are written for a reader; its meaning is what the model's docstring says of
it under `Args:`. It must not know Sphinx: tests read the same rows.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from celery_guardrails.clock import format_duration
from celery_guardrails.destination import Destination
from celery_guardrails.policy import Policy, field
from celery_guardrails.policy.alert import TaskAlerts
from celery_guardrails.policy.backoff import Backoff, Constant, Exponential, Linear, Schedule
from celery_guardrails.policy.idempotency import Idempotency, KeyOf
from celery_guardrails.settings import ENVIRONMENT_VARIABLES, EscalationSettings, RouteSettings, Settings, sections

__all__ = ["TABLES", "Row", "described", "idempotency_rows", "policy_rows", "setting_rows", "table", "variable_rows"]

_NAMED_TYPES: dict[Any, str] = {
    timedelta: "duration",
    bool: "`True` or `False`",
    str: "text",
    SecretStr: "text, secret",
    int: "whole number",
    float: "number",
    Backoff: "backoff",
    Policy: "a policy's fields",
    RouteSettings: "list of routes",
    EscalationSettings: "list of steps",
    TaskAlerts: "thresholds by signal, or `False`",
    Idempotency: "an `Idempotency`, its fields as a dict, `True`",
    tuple[str, ...] | KeyOf: "names, a function `(args, kwargs) -> text`",
    Destination: "a destination",
    field.Jitter: 'number from 0 to 1, or `"full"`, `"equal"`, `"decorrelated"`, `"none"`',
    field.Matcher: "exception classes, dotted paths, predicates",
}
_ENDS_WITH_DEFAULT = re.compile(r"(?:(?<=\.) |\A)Default (?:[^.]|\.(?=\S))*\.\Z")
_ARGUMENT = re.compile(r"^ {4}(?P<names>\w+(?:, \w+)*): (?P<meaning>.*(?:\n {8,}.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        name: what a user writes: `dead_letter.queue`.
        kind: the type and its range, in words.
        default: as a user would write it; `""` where a default makes no sense.
        meaning: what it does, with its unit.
    """

    name: str
    kind: str
    default: str
    meaning: str


@cache
def described(model: type[BaseModel]) -> Mapping[str, str]:
    """What a model's docstring says of each field under `Args:`."""
    doc = inspect.getdoc(model) or ""
    found: dict[str, str] = {}
    for match in _ARGUMENT.finditer(doc.partition("Args:\n")[2]):
        meaning = re.sub(r"\s+", " ", match["meaning"]).strip()
        found |= dict.fromkeys(match["names"].split(", "), meaning)
    return found


def policy_rows() -> Iterator[Row]:
    """Every field of a policy."""
    for name, info in Policy.model_fields.items():
        yield _row(Policy, name, name, info)


def idempotency_rows() -> Iterator[Row]:
    """Every field of the policy's `Idempotency`."""
    for name, info in Idempotency.model_fields.items():
        yield _row(Idempotency, name, name, info)


def setting_rows(section: str = "") -> Iterator[Row]:
    """Every setting of a section; `""` is those that stand in no section."""
    if section == "retention":
        for key, value in Settings().retention.items():
            yield Row(f"retention.{key}", "duration or `None`", f"`{_value(value)}`", _of_retention(key))
    elif section:
        model: Any = Settings.model_fields[section].annotation
        yield from _section_rows(model, section)
    else:
        for name, info in Settings.model_fields.items():
            if name not in sections() and name != "retention":
                yield _row(Settings, name, name, info)


def _section_rows(model: type[BaseModel], key: str) -> Iterator[Row]:
    """The settings of a section; those of a section inside it under both keys."""
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _section_rows(inner, f"{key}.{name}")
        else:
            yield _row(model, name, f"{key}.{name}", info)


def variable_rows() -> Iterator[Row]:
    """Every environment variable, with the meaning of the setting that it overrides."""
    meanings = {row.name: row for section in TABLES["settings"] for row in setting_rows(section)}
    for variable, key in ENVIRONMENT_VARIABLES.items():
        yield Row(variable, f"`{key}`", "", meanings[key].meaning)


TABLES: Mapping[str, tuple[str, ...]] = {
    "settings": ("", "dead_letter", "store", "idempotency", "slack", "alerts", "metrics", "retention"),
    "policy": ("",),
    "idempotency": ("",),
    "variables": ("",),
}
"""Which tables there are, and the sections of each."""


def table(name: str, section: str = "") -> str:
    """One table, as Markdown."""
    if name == "variables":
        rows, head = list(variable_rows()), ("variable", "setting", "meaning")
        cells = [(f"`{row.name}`", row.kind, row.meaning) for row in rows]
    else:
        fields = {"policy": policy_rows, "idempotency": idempotency_rows}.get(name)
        rows, head = list(fields() if fields else setting_rows(section)), ("name", "type", "default", "meaning")
        cells = [(f"`{row.name}`", row.kind, row.default, row.meaning) for row in rows]
    lines = [head, tuple("---" for _ in head), *cells]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines) + "\n"


def _row(model: type[BaseModel], name: str, key: str, info: FieldInfo) -> Row:
    meaning = described(model).get(name, "")
    kind = _kind(info.annotation)
    if (least := _least(info.annotation, info.metadata)) is not None:
        kind = kind.replace("whole number", f"whole number from {least}")
    meaning = _ENDS_WITH_DEFAULT.sub("", meaning).strip()
    return Row(key, kind, _default(info), meaning[:1].upper() + meaning[1:])


def _least(annotation: Any, metadata: Iterable[Any]) -> int | None:
    """The least value that is taken, also of one that may be `None`."""
    for each in metadata:
        if hasattr(each, "ge"):
            return int(each.ge)
        if isinstance(each, FieldInfo) and (least := _least(None, each.metadata)) is not None:
            return least
    inner = (_least(part, getattr(part, "__metadata__", ())) for part in get_args(annotation))
    return next((least for least in inner if least is not None), None)


def _kind(annotation: Any) -> str:
    """A type in words."""
    for known, words in _NAMED_TYPES.items():
        if annotation == known:
            return words
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        return _listed([f'`"{each}"`' for each in arguments])
    if origin in (Union, UnionType) and NoneType in arguments:
        (inner, *more) = (each for each in arguments if each is not NoneType)
        return f"{_kind(Union[(inner, *more)] if more else inner)} or `None`"
    if origin is tuple:
        return "names" if arguments[0] is str else _kind(arguments[0])
    if origin is dict:
        return f"dict of {_kind(arguments[1])}" if arguments[1] is not Any else "dict"
    if hasattr(annotation, "__metadata__"):
        return _kind(arguments[0])
    raise TypeError(f"no words for the type {annotation}")


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return ""
    return f"`{_value(value)}`"


def _value(value: Any) -> str:
    if isinstance(value, timedelta):
        return f'"{format_duration(value)}"'
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000:
        return f"{value:_}"
    if isinstance(value, Destination):
        return f'"{value.name}"'
    if isinstance(value, Policy):
        return "{}"  # no field is given, so that each has its own default
    if isinstance(value, (Exponential, Constant, Linear, Schedule)):
        return str(value)
    if isinstance(value, tuple) and value:
        return f"({', '.join(map(_value, value))},)"
    return repr(value)


def _of_retention(key: str) -> str:
    found = re.search(rf"`{key}`: (?P<meaning>[^,.]+)", described(Settings)["retention"])
    return f"How long the archive keeps {found['meaning']}." if found else ""
