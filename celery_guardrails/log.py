"""The loggers of guardrails: no record of theirs can steer a terminal, forge a line of the log or show a secret.

Owns one filter on each of them, which cleans and redacts every record before a handler gets it, so that no call has to
think of it. It must not know what is logged, and leaves the records of Celery and of libraries alone. Cheap to import:
the code that hides secrets is imported with the first record.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from celery_guardrails.printable import lines, one_line, text_of

__all__ = ["LOGGERS", "Lines", "install"]

LOGGERS = tuple(
    f"celery_guardrails.{name}"
    for name in (
        "alerts", "alerts.outbox", "alerts.service", "alerts.sinks.slack.sdk", "attempt", "guardian", "policy.backoff",
        "policy.matching", "transport", "worker",
    )
)  # fmt: skip
"""Every logger that modules here write to."""

_HARMLESS = (int, float, type(None))
_UNREADABLE = "a line of the log that could not be written"
_formatter = logging.Formatter()


class Lines(str):
    """A text of several lines that keeps its line breaks in the log; the caller has made each line harmless."""

    __slots__ = ()


class _Clean:
    """A value of a record that is not text: its text is cleaned when the record is formatted."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return one_line(text_of(self._value))

    def __repr__(self) -> str:
        try:
            return one_line(repr(self._value))
        except Exception:  # noqa: BLE001 somebody else's __repr__
            return object.__repr__(self)


class _Cleaning(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Clean the record's values, and its traceback, and hide secrets in both; drops none, and never raises."""
        if isinstance(record.args, Mapping):
            record.args = {name: _cleaned(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(_cleaned(value) for value in record.args)
        if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None and not record.exc_text:
            record.exc_text = _traceback(record.exc_info)
        _hide(record)
        return True


def _hide(record: logging.LogRecord) -> None:
    """Hide a record's secrets before any handler gets it; never raises, because a log line must not end its caller."""
    from celery_guardrails.redaction import shown

    try:
        record.msg = shown(record.getMessage())
        record.exc_text = shown(record.exc_text) if record.exc_text else None
    except Exception as exc:  # noqa: BLE001 such as a call with too few values
        template = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        record.msg, record.exc_text = f"{_UNREADABLE} ({type(exc).__name__}): {template}", None
    # a handler that formats the exception again would show its secrets
    record.args, record.exc_info = (), None


def install() -> None:
    """Put the filter on every logger of ours, once."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(found, _Cleaning) for found in logger.filters):
            logger.addFilter(_Cleaning())


def _cleaned(value: Any) -> Any:
    if isinstance(value, Lines):
        return lines(value)
    if isinstance(value, str):
        return one_line(text_of(value))
    return value if isinstance(value, _HARMLESS) else _Clean(value)


def _traceback(exc_info: Any) -> str:
    """The traceback with each line indented, so that no line of a foreign message looks like a record of its own."""
    try:
        text = _formatter.formatException(exc_info)
    except Exception:  # noqa: BLE001 an exception whose text cannot be had
        text = f"{exc_info[0].__name__}, whose traceback cannot be shown"
    return "\n".join(f"  {line}" for line in lines(text).split("\n"))
