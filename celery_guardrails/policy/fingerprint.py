"""Which failures are the same problem: a short text that does not change with ids, line numbers and deployments.

Owns the `v1:` scheme. It runs where the exception still has its stack. It must not know alert groups.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
from collections.abc import Mapping
from functools import lru_cache
from types import TracebackType

from celery_guardrails.policy.dotted import dotted_name

__all__ = ["TIME_LIMIT", "UNDECODABLE", "UNKNOWN_TASK", "WORKER_LOST", "fingerprint", "fingerprint_of", "normalised"]

TIME_LIMIT = "v1:time_limit"
"""A hard time limit: the process was killed, there is no stack."""
UNDECODABLE = "v1:undecodable"
"""A message that could not be read."""
UNKNOWN_TASK = "v1:unknown_task"
"""A message for a task that this worker does not have."""
WORKER_LOST = "v1:worker_lost"
"""The process died while the task ran."""

_DEEPEST = 20
_LONGEST_MESSAGE = 2_000
_LIBRARIES = tuple({path for key in ("stdlib", "platstdlib") if (path := sysconfig.get_paths().get(key))})
_FRAMEWORKS = ("celery_guardrails", "celery", "kombu", "billiard", "amqp", "vine")
_VARIABLE = (
    (re.compile(r"\b[a-z][a-z0-9+.-]{0,30}://\S+", re.I), "<url>"),
    (re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+\b"), "<email>"),
    (re.compile(r"(?<!\w)'[^']*'|\"[^\"]*\"|`[^`]*`"), "<quoted>"),
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.I), "<id>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.I), "<date>"),
    (re.compile(r"\b\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?\b"), "<time>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<address>"),
    (re.compile(r"\b(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{1,4}\b", re.I), "<address>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.I), "<address>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b", re.I), "<hash>"),
    (
        re.compile(
            # Starts at a number's first digit, or at its second after a letter: to start at every digit would take
            # quadratic time.
            r"(?:(?<![a-z\d])|(?<=[a-z]\d))\d+(?:\.\d+)?\s?"
            r"(?:ms|us|ns|s|sec|secs|seconds?|m|min|minutes?|h|hours?|d|days?)\b",
            re.I,
        ),
        "<time>",
    ),
    # A word with a digit in it is an id (order_4711, AB12) more often than not.
    (re.compile(r"\b\w*\d[\w.]*\b"), "<n>"),
)


def fingerprint(exc: BaseException) -> str:
    """The problem's fingerprint: `v1:` and 16 hexadecimal digits.

    It is made of the exception's type, its root cause's type, and the last frame of the application's own code (module
    and qualified name, no line number). Without such a frame it is made of the type and of the message without its
    variable parts. An HTTP status counts, too: 503 and 429 are two problems.
    """
    name = dotted_name(type(exc))
    frame, root = _last_own_frame(exc.__traceback__), _root(exc)
    status = _http_status(exc) or _http_status(root)
    http = () if status is None else (f"http {status}",)
    if frame is None:
        return _hashed("message", name, normalised(_message(exc)), *http)
    return _hashed("frame", name, dotted_name(type(root)), frame, *http)


def fingerprint_of(error: str, message: str) -> str:
    """The fingerprint of a problem without a stack: of the type's name and the message without variable parts."""
    return _hashed("message", error, normalised(message))


def normalised(message: str) -> str:
    """The message with ids, numbers, hashes, addresses, dates, durations, urls and quoted strings replaced."""
    text = message[:_LONGEST_MESSAGE]
    for pattern, replacement in _VARIABLE:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def _hashed(*parts: str) -> str:
    text = "\n".join(parts).encode("utf-8", "backslashreplace")
    return "v1:" + hashlib.sha256(text).hexdigest()[:16]


def _message(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:  # noqa: BLE001  a broken __str__ must not cost the fingerprint
        return ""


def _http_status(exc: BaseException) -> int | None:
    """The HTTP status that an error carries, as requests, httpx, urllib, aiohttp and botocore do; never raises."""
    try:
        response = getattr(exc, "response", None)
        if isinstance(response, Mapping):
            found = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")]
        else:
            found = [getattr(response, name, None) for name in ("status_code", "status")]
        if response is None:
            found = [getattr(exc, name, None) for name in ("status_code", "status", "code")]
        return next((each for each in found if type(each) is int and 100 <= each < 600), None)
    except Exception:  # noqa: BLE001 an attribute of foreign code can be a property that raises
        return None


def _root(exc: BaseException) -> BaseException:
    current = exc
    for _ in range(_DEEPEST):
        following = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        if not isinstance(following, BaseException) or following is exc:
            break
        current = following
    return current


def _last_own_frame(traceback: TracebackType | None) -> str | None:
    found: str | None = None
    while traceback is not None:
        frame_code = traceback.tb_frame.f_code
        module = str(traceback.tb_frame.f_globals.get("__name__", "?"))
        if module.partition(".")[0] not in _FRAMEWORKS and _is_own(frame_code.co_filename):
            # Python 3.10 knows only the plain name.
            found = f"{module}.{getattr(frame_code, 'co_qualname', frame_code.co_name)}"
        traceback = traceback.tb_next
    return found


@lru_cache(maxsize=1024)
def _is_own(filename: str) -> bool:
    if filename.startswith("<frozen ") or "site-packages" in filename or "dist-packages" in filename:
        return False
    return not filename.startswith(tuple(f"{path}/" for path in _LIBRARIES))
