"""The one place that reads the clock, and that reads and writes durations.

Instants are aware UTC datetimes; durations are `timedelta` inside and seconds, `timedelta` or text at the edge.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone

import durationpy

__all__ = ["LATEST", "LONGEST", "Duration", "format_duration", "from_epoch", "now", "parse_duration", "shown"]

Duration = timedelta | float | int | str
"""What a user may write for a duration: seconds, a `timedelta`, or text such as `"90s"`, `"5m"`, `"2h"`, `"14d"`."""

LATEST = 32_503_680_000.0
"""The year 3000, in seconds since 1970: a later instant is not one of ours, and arithmetic on it may fail."""
LONGEST = timedelta(days=3650)
"""Ten years: no duration of ours is longer, as a user writes it, as a policy makes it, or in a message."""


def now() -> datetime:
    """This instant, as an aware UTC datetime."""
    return datetime.now(timezone.utc)


def from_epoch(seconds: float) -> datetime:
    """The instant that lies `seconds` after 1970-01-01 UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def parse_duration(value: Duration) -> timedelta:
    """Read a duration as a user writes it.

    Raises:
        ValueError: it is negative, not finite, over ten years, or not a duration at all; the message says how to
            write one.
    """
    if isinstance(value, bool):
        raise ValueError(_explain(value))
    if isinstance(value, str):
        try:
            delta = durationpy.from_str(value.strip()) if value.strip() else None
        except (durationpy.DurationError, ValueError, OverflowError):
            delta = None
        if delta is None:
            raise ValueError(_explain(value))
    elif isinstance(value, timedelta):
        delta = value
    elif isinstance(value, (int, float)) and math.isfinite(value) and abs(value) <= LONGEST.total_seconds():
        delta = timedelta(seconds=value)
    else:
        raise ValueError(_explain(value))
    if not timedelta(0) <= delta <= LONGEST:
        raise ValueError(f"{value!r} is not between 0 and ten years")
    return delta


def format_duration(delta: timedelta) -> str:
    """The shortest text that `parse_duration` reads back, to the millisecond: `1h30m`, `45s`, `250ms`.

    For durations that people write themselves; `shown` is for those that they only read.
    """
    millis = round(delta / timedelta(milliseconds=1))
    if millis == 0:
        return "0s"
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, millis = divmod(millis, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def shown(delta: timedelta) -> str:
    """A duration as people read it, in its two largest units: `250 ms`, `1.7 s`, `48 s`, `3 min 20 s`, `3 d 4 h`."""
    seconds = max(0.0, delta.total_seconds())
    if 0 < seconds < 0.9995:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 9.95:
        return f"{round(seconds, 1):g} s"
    whole = round(seconds)
    for size, unit, smaller, name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{whole} s"


def _explain(value: object) -> str:
    return f'{value!r} is not a duration: write seconds, a timedelta, or text such as "90s", "5m", "2h", "14d"'
