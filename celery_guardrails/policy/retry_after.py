"""How long a server asks clients to wait: HTTP's `Retry-After`, wherever a client library's error keeps it.

Takes `now`, never raises. It must not know what a policy makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = ["parse_retry_after", "retry_after"]

_DEEPEST = 5


def retry_after(exc: BaseException, now: datetime) -> float | None:
    """The seconds that the error asks to wait; `None`: it asks for no wait, or for one that cannot be read.

    Looks at `TransientError(retry_after=...)`, and at the response headers of requests, httpx, urllib, urllib3,
    botocore and slack_sdk errors; then at the error that this one was raised from.
    """
    current: BaseException | None = exc
    for _ in range(_DEEPEST):
        if current is None:
            break
        try:
            seconds = _seconds_in(current, now)
            if seconds is not None:
                return seconds
            current = current.__cause__
        except Exception:  # noqa: BLE001  an attribute of foreign code can be a property that raises
            break
    return None


def parse_retry_after(value: object, now: datetime) -> float | None:
    """Read the header's value: seconds, or an HTTP date counted from `now`; a date in the past is 0.

    Not urllib3's `Retry.parse_retry_after`, which reads the clock itself and raises on garbage.
    """
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _checked(float(value))
    if not isinstance(value, str):
        return None
    try:
        return _checked(float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
        # RFC 9110, 5.6.7: an HTTP date is always in GMT, whether or not it says so.
        aware = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
        return max((aware - now).total_seconds(), 0.0)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _seconds_in(exc: BaseException, now: datetime) -> float | None:
    seconds = parse_retry_after(getattr(exc, "retry_after", None), now)
    if seconds is not None:
        return seconds
    response = getattr(exc, "response", None)
    if isinstance(response, Mapping):  # botocore keeps a dict
        headers = (response.get("ResponseMetadata") or {}).get("HTTPHeaders")
    elif response is not None:
        headers = getattr(response, "headers", None)
    else:
        headers = getattr(exc, "headers", None)  # urllib.error.HTTPError
    return parse_retry_after(_header(headers), now)


def _header(headers: Any) -> object:
    for name, value in headers.items() if hasattr(headers, "items") else ():
        text = name.decode("latin-1") if isinstance(name, bytes) else name
        if isinstance(text, str) and text.lower() == "retry-after":
            # slack_sdk's web client hands out a list for each header.
            return value[0] if isinstance(value, (list, tuple)) and value else value
    return None


def _checked(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
