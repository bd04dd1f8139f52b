"""Reports wrong declarations: raises at once, or collects the faults, so that `guardrails check` can list all of them.

Owns the switch between the two. It must not know what a right value is: `field.py` does.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

from pydantic import BaseModel, ValidationError

from celery_guardrails.errors import ConfigurationError, Fault, nearest
from celery_guardrails.policy import origin
from celery_guardrails.redaction import Redactor

__all__ = [
    "HIDDEN",
    "WORDS",
    "collected",
    "collecting",
    "faults_in",
    "is_collecting",
    "report",
    "shown",
    "shown_text",
    "start",
    "stop",
]

collected: list[Fault] = []
"""The faults reported since `start()`, oldest first."""

HIDDEN = "***"
"""Stands for the value of an unknown key, which is never shown: it may be a secret."""

WORDS = {
    "model_type": "is of type {kind}, not a dict",
    "dict_type": "is of type {kind}, not a dict",
    "tuple_type": "is of type {kind}, not a list",
    "missing": "is missing",
    "string_type": "is of type {kind}, not text",
    "string_too_short": "is empty",
    "bool_type": "is neither True nor False",
    "bool_parsing": "is neither True nor False",
    "int_type": "is of type {kind}, not a whole number",
    "int_parsing": "is no whole number",
    "int_from_float": "is no whole number",
    "float_type": "is of type {kind}, not a number",
    "float_parsing": "is no number",
    "greater_than_equal": "is less than {ge}",
    "less_than_equal": "is more than {le}",
}
"""What pydantic calls wrong, in our words."""

_LONGEST_VALUE = 120
_REDACTOR = Redactor()
_always = False
_sink: ContextVar[list[Fault] | None] = ContextVar("celery_guardrails_faults", default=None)


def start() -> None:
    """From now on, in every thread, record wrong declarations in `collected` instead of raising."""
    global _always
    collected.clear()
    _always = True


def stop() -> None:
    """Wrong declarations raise again; `collected` keeps what was found."""
    global _always
    _always = False


@contextmanager
def collecting() -> Iterator[list[Fault]]:
    """Within the block, in this thread, record wrong declarations in the list that it yields."""
    found: list[Fault] = []
    token = _sink.set(found)
    try:
        yield found
    finally:
        _sink.reset(token)


def is_collecting() -> bool:
    """Whether a wrong declaration is recorded at this moment instead of raising."""
    return _always or _sink.get() is not None


def report(faults: Sequence[Fault]) -> None:
    """Record the faults, or raise them; each gets the name of the task that the caller's source declares.

    Raises:
        ConfigurationError: faults are not collected now.
    """
    task = origin.task_name()
    named = [replace(fault, task=fault.task or task) for fault in faults]
    sink = _sink.get()
    if sink is None and not _always:
        raise ConfigurationError(named)
    (collected if sink is None else sink).extend(named)


def shown(value: object) -> str:
    """The value as a fault shows it: its `repr` without secrets, cut at 120 characters; never raises."""
    try:
        # the repr of a class or a function says more than its masked value
        text = repr(value if isinstance(value, type) or inspect.isroutine(value) else _REDACTOR.mask(value))
    except Exception:  # noqa: BLE001  a user's __repr__ must not hide the fault
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def shown_text(text: str) -> str:
    """The text of a fault without secrets: it may quote a value."""
    return _REDACTOR.text(text)


def faults_in(error: ValidationError, model: type[BaseModel], section: str = "") -> list[Fault]:
    """The faults of one pydantic error, one for each wrong field.

    Args:
        error: what pydantic says.
        model: whose fields they are.
        section: what comes before the names of the fields, such as `idempotency.`.
    """
    found: dict[str, Fault] = {}
    for entry in error.errors(include_url=False):
        context = entry.get("ctx", {})
        name = str(entry["loc"][0]) if entry["loc"] else context.get("at", "")
        if entry["type"] == "extra_forbidden":
            near = nearest(name, model.model_fields)
            hint = f"did you mean {near}?" if near else f"fields are {', '.join(model.model_fields)}"
            fault = Fault(section + shown_text(name), HIDDEN, "unknown field", suggestion=hint)
        elif entry["type"] == "guardrails":
            inside = f".{context['at']}" if entry["loc"] and context["at"] else ""
            better = context["hint"] or None
            fault = Fault(section + name + inside, context["value"], context["problem"], suggestion=better)
        else:
            fault = Fault(section + name, shown(entry["input"]), entry["msg"][:1].lower() + entry["msg"][1:])
        found.setdefault(name, fault)
    return list(found.values())
