"""Makes a `Failure` of an exception, whatever the exception does: never raises, and bounds everything that it keeps.

Foreign code can raise in `__str__` or `__cause__`, or write a huge message: each part has a fallback of its own.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import TypeVar

from celery_guardrails.policy.catalogue import Verdict
from celery_guardrails.policy.dotted import dotted_name, mro_names
from celery_guardrails.policy.failure import Cause, Failure
from celery_guardrails.policy.fingerprint import fingerprint, fingerprint_of
from celery_guardrails.policy.retry_after import retry_after
from celery_guardrails.policy.taxonomy import UNKNOWN, classify_with_cause

__all__ = ["LONGEST_MESSAGE", "LONGEST_TRACEBACK", "describe", "describe_type", "traceback_text"]

LONGEST_MESSAGE = 2_000
"""Characters of a message that are kept."""
LONGEST_TRACEBACK = 32 * 1024
"""Bytes of a traceback's text that are kept, from its head and its tail."""

T = TypeVar("T")

_HEAD = 8 * 1024
_SEARCHED = 32 * 1024
"""Characters of a message, and of each end of a traceback, that are searched for secrets."""
_CUT = "\n  [... cut ...]\n"
_FRAMEWORKS = ("celery_guardrails", "celery", "billiard")


def describe(
    exc: BaseException,
    now: datetime,
    *,
    with_traceback: bool = True,
    hide: Callable[[str], str] | None = None,
) -> Failure:
    """An attempt's exception as data; never raises.

    Args:
        exc: the exception, with its traceback where it has one.
        now: this instant, from which a server's `Retry-After` date counts.
        with_traceback: `False` leaves the traceback's text out; `traceback_text` makes it later where it is needed.
        hide: hides the secrets in a text before it is cut, because half a secret is not recognised. `None` hides
            nothing.
    """
    cls = type(exc)
    error = _or(lambda: dotted_name(cls), "unknown")
    message = _message(exc, hide)
    unknown: tuple[Verdict, BaseException | None] = (UNKNOWN, None)
    verdict, inner = _or(lambda: classify_with_cause(exc), unknown)
    named_by = inner or exc
    return Failure(
        error=error,
        message=message,
        category=verdict.category,
        transient=verdict.transient,
        fingerprint=_or(lambda: fingerprint(exc), None) or fingerprint_of(error, message),
        traceback=traceback_text(exc, hide) if with_traceback else "",
        retry_after=_or(lambda: retry_after(exc, now) or retry_after(named_by, now), None),
        mro=_or(lambda: mro_names(cls), (error,)),
        exception=exc,
        cause=None if inner is None else _or(lambda: _cause(inner), None),
    )


def _cause(exc: BaseException) -> Cause:
    return Cause(dotted_name(type(exc)), mro_names(type(exc)), exc)


def describe_type(exc: BaseException, hide: Callable[[str], str] | None = None) -> tuple[str, str]:
    """The dotted name of an exception's type and its message, bounded; `hide` as for `describe`; never raises."""
    return _or(lambda: dotted_name(type(exc)), "unknown"), _message(exc, hide)


def traceback_text(exc: BaseException, hide: Callable[[str], str] | None = None) -> str:
    """The traceback as Python prints it, without the frames of Celery and of guardrails above the task's own code.

    At most 32 KiB; of a longer one the first 8 KiB and the end are kept. Never raises.

    Args:
        exc: the exception.
        hide: as for `describe`.
    """

    def formatted() -> str:
        return "".join(traceback.format_exception(type(exc), exc, _below_frameworks(exc.__traceback__)))

    fallback = f"{_or(lambda: dotted_name(type(exc)), 'unknown')}: {_message(exc)}"
    text = _clean(_or(formatted, fallback))
    return _cut(text if hide is None else _without_secrets(text, hide))


def _message(exc: BaseException, hide: Callable[[str], str] | None = None) -> str:
    text = _or(lambda: str(exc), f"<{type(exc).__name__} whose message cannot be shown>")
    if hide is not None:
        text = hide(_clean(text[:_SEARCHED]))
    return _clean(text[: LONGEST_MESSAGE + 1])[:LONGEST_MESSAGE]


def _without_secrets(text: str, hide: Callable[[str], str]) -> str:
    """The text without secrets; of a long text only its two ends, because `_cut` keeps even less of them."""
    if len(text) <= 2 * _SEARCHED:
        return hide(text)
    first, last = text[:_SEARCHED], text[-_SEARCHED:]
    # cut at a line's end: a secret that is cut in two is not recognised
    return hide(first[: first.rfind("\n") + 1]) + _CUT + hide(last[last.find("\n") + 1 :])


def _below_frameworks(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is neither guardrails' nor Celery's."""
    while frames is not None:
        module = str(frames.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in _FRAMEWORKS:
            break
        frames = frames.tb_next
    return frames


def _clean(text: str) -> str:
    """The text without lone surrogates, which UTF-8 cannot hold, and without NUL, which PostgreSQL cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def _cut(text: str) -> str:
    encoded = text.encode("utf-8")
    if len(encoded) <= LONGEST_TRACEBACK:
        return text
    tail = LONGEST_TRACEBACK - _HEAD - len(_CUT)
    return encoded[:_HEAD].decode("utf-8", "ignore") + _CUT + encoded[-tail:].decode("utf-8", "ignore")


def _or(attempt: Callable[[], T], fallback: T) -> T:
    try:
        return attempt()
    except Exception:  # noqa: BLE001  describing a failure must not become one
        return fallback
