"""Reads each field of a policy: turns what a user writes into a checked value, or says in words what is wrong.

Owns the pydantic validators and the types of the fields. It must not import what a dotted path names.
"""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, PlainValidator
from pydantic_core import PydanticCustomError

from celery_guardrails.clock import parse_duration
from celery_guardrails.errors import nearest
from celery_guardrails.policy import faults
from celery_guardrails.policy.backoff import Backoff, Constant, Exponential, Linear, Schedule
from celery_guardrails.policy.failure import Category

__all__ = [
    "Acks",
    "BackoffField",
    "BackoffForField",
    "DurationField",
    "Jitter",
    "JitterField",
    "Matcher",
    "MatchersField",
    "NamesField",
    "OnExhausted",
    "OnExpired",
    "OptionalDurationField",
    "OptionalMatchersField",
    "Severity",
    "choice",
    "problem",
]

Matcher = type[BaseException] | str | Callable[[BaseException], bool]
"""An exception class, the dotted path of one, or a predicate."""

Jitter = float | Literal["full", "equal", "decorrelated", "none"]
Severity = Literal["info", "warning", "error", "critical"]
OnExhausted = Literal["fail", "park"]
OnExpired = Literal["dead_letter", "drop"]
Acks = Literal["late", "early"]

_JITTERS = ("full", "equal", "decorrelated", "none")
_BUILTIN_ERRORS = frozenset(
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
)
_CATEGORIES = frozenset(category.value for category in Category)


def problem(value: object, text: str, hint: str | None = None, at: str = "") -> PydanticCustomError:
    """The error for a wrong value, of which `faults_in` makes a `Fault`; `at`: the field, for a check of several."""
    # The text goes in as context: braces in a message template would be read as place-holders.
    words = {"problem": faults.shown_text(text), "hint": faults.shown_text(hint or "")}
    context = {**words, "value": faults.shown(value), "at": at}
    return PydanticCustomError("guardrails", "{problem}", context)


def choice(*options: str) -> BeforeValidator:
    """Accept one of these words; the error for another one names the nearest."""

    def read(value: Any) -> Any:
        if isinstance(value, str) and value in options:
            return value
        near = nearest(value, options) if isinstance(value, str) else None
        listed = ", ".join(repr(option) for option in options)
        raise problem(value, f"is not one of {listed}", f"did you mean {near!r}?" if near else None)

    return BeforeValidator(read)


def read_duration(value: Any) -> timedelta:
    """Read a duration as a user writes it."""
    try:
        return parse_duration(value)
    except ValueError as error:
        raise problem(value, str(error)) from None


def read_optional_duration(value: Any) -> timedelta | None:
    """Read a duration, or `None`."""
    return None if value is None else read_duration(value)


def read_names(value: Any) -> tuple[str, ...]:
    """Read a list of argument names."""
    if isinstance(value, str):
        raise problem(value, "is one string, not a list of names", f"write ({value!r},)")
    if not isinstance(value, (tuple, list, set, frozenset)):
        raise problem(value, "is not a list of names", "write ('order_id',)")
    for name in value:
        if not isinstance(name, str) or not name:
            raise problem(name, "is not the name of an argument", "write ('order_id',)")
    return tuple(sorted(value) if isinstance(value, (set, frozenset)) else value)


def read_matcher(value: Any) -> Matcher:
    """Read an exception class, the dotted path of one, or a predicate."""
    if isinstance(value, type):
        if _is_error(value):
            return cast("Matcher", value)
        raise problem(value, "is a class but not an exception class")
    if isinstance(value, str):
        return _path(value)
    if callable(value):
        _check_predicate(value)
        return cast("Matcher", value)
    raise problem(value, "is not an exception class, a dotted path or a predicate")


def read_matchers(value: Any) -> tuple[Matcher, ...]:
    """Read a list of matchers."""
    if isinstance(value, (str, type)) or callable(value):
        raise problem(value, "is one entry, not a tuple of entries", "write a tuple: (…,)")
    if not isinstance(value, (tuple, list, set, frozenset)):
        raise problem(value, "is not a tuple of exception classes, dotted paths or predicates")
    return tuple(read_matcher(entry) for entry in value)


def read_optional_matchers(value: Any) -> tuple[Matcher, ...] | None:
    """Read a list of matchers, or `None` for the built-in taxonomy."""
    return None if value is None else read_matchers(value)


def read_backoff(value: Any) -> Backoff:
    """Read a backoff form, a callable or a tenacity wait."""
    if value in (Exponential, Constant, Linear, Schedule):
        raise problem(value, "is the class, not a backoff", f'write {value.__name__}("5s")')
    if isinstance(value, (Exponential, Constant, Linear, Schedule)) or callable(value):
        return cast("Backoff", value)
    hint = 'write Exponential("5s"), Constant("5s") or Schedule(["5s", "15s"])'
    raise problem(value, "is not a backoff", hint)


def read_backoff_for(value: Any) -> dict[type[BaseException] | str, Backoff]:
    """Read a mapping from exception class, dotted path or category to backoff."""
    if not isinstance(value, Mapping):
        raise problem(value, "is not a mapping from exception class or category to backoff")
    read: dict[type[BaseException] | str, Backoff] = {}
    for key, backoff in value.items():
        if isinstance(key, str) and str(key) in _CATEGORIES:
            read[str(key)] = read_backoff(backoff)
        elif isinstance(key, str):
            read[_path(key, _CATEGORIES)] = read_backoff(backoff)
        elif _is_error(key):
            read[key] = read_backoff(backoff)
        else:
            raise problem(key, "is not an exception class, a dotted path or a category")
    return read


def read_jitter(value: Any) -> Any:
    """Read a jitter: a ratio from 0 to 1, or the name of a form."""
    if isinstance(value, str) and value in _JITTERS:
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    near = nearest(value, _JITTERS) if isinstance(value, str) else None
    listed = ", ".join(repr(name) for name in _JITTERS)
    raise problem(value, f"is not a ratio from 0 to 1 or one of {listed}", f"did you mean {near!r}?" if near else None)


def _is_error(value: Any) -> bool:
    # Not issubclass: on Python 3.10 `list[int]` passes for a type, and issubclass then raises.
    return isinstance(value, type) and BaseException in value.__mro__


def _path(value: str, others: frozenset[str] = frozenset()) -> str:
    parts = value.split(".")
    if not all(part.isidentifier() for part in parts):
        raise problem(value, "is not the dotted path of an exception class")
    if len(parts) == 1 and value not in _BUILTIN_ERRORS:
        near = nearest(value, _BUILTIN_ERRORS | others)
        what = "a category, " if others else ""
        text = f"is not {what}a built-in exception or a dotted path such as 'requests.exceptions.ConnectionError'"
        raise problem(value, text, f"did you mean {near!r}?" if near else None)
    # "builtins.TimeoutError" and "TimeoutError" are the same class: a failure's mro names it the short way.
    return value.removeprefix("builtins.")


def _check_predicate(value: Any) -> None:
    try:
        inspect.signature(value).bind(None)
    except TypeError:
        raise problem(value, "is a callable that does not take one argument, the exception") from None
    except ValueError:
        return  # a callable written in C may have no signature to look at


BackoffField = Annotated[Backoff, PlainValidator(read_backoff)]
BackoffForField = Annotated[dict[type[BaseException] | str, Backoff], PlainValidator(read_backoff_for)]
DurationField = Annotated[timedelta, PlainValidator(read_duration)]
OptionalDurationField = Annotated[timedelta | None, PlainValidator(read_optional_duration)]
JitterField = Annotated[Jitter, PlainValidator(read_jitter)]
MatchersField = Annotated[tuple[Matcher, ...], PlainValidator(read_matchers)]
OptionalMatchersField = Annotated[tuple[Matcher, ...] | None, PlainValidator(read_optional_matchers)]
NamesField = Annotated[tuple[str, ...], PlainValidator(read_names)]
