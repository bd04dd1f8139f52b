"""Text for a column: without NUL and lone surrogates, short enough for an index, and still distinct.

Owns how a long value is cut. `cut` and `key_of` give different results for different values, and leave their own
results unchanged. It must not know a table.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone

__all__ = [
    "INDEXED",
    "LARGEST",
    "NAME",
    "clean",
    "cut",
    "cut_or_none",
    "key_of",
    "plausible",
    "reference_of",
    "shortened",
]

# A PostgreSQL index entry holds at most 2,704 bytes, a character takes up to 4, and an index has up to two texts.
INDEXED = 400
"""Characters of a text in an index, beside an id or a name."""
NAME = 200
"""Characters of an argument's name: its value is in the same index."""
LARGEST = 2**31 - 1
"""The largest generation or number of attempts that the tables hold; a larger number is stored as this one."""
_ID = 100
_REFERENCE = 64
_DIGEST = 16
_AHEAD = timedelta(days=1)
_NEVER_SET = datetime(2000, 1, 1, tzinfo=timezone.utc)


def clean(value: str) -> str:
    """The text without characters that databases refuse: NUL (PostgreSQL), and half a surrogate pair (all of them)."""
    if value.isascii():
        return value.replace("\0", "\ufffd")
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def shortened(value: str, limit: int) -> str:
    """The beginning of a text that people read; nothing is found by it."""
    return clean(value[:limit])


def cut(value: str, limit: int = INDEXED) -> str:
    """Text for a column by which letters are found; a text that is too long becomes its beginning and a digest."""
    if len(value) <= limit:
        return clean(value)
    return f"{clean(value[: limit - _DIGEST - 1])}~{_digest(value)[:_DIGEST]}"


def cut_or_none(value: str | None) -> str | None:
    """The text as `cut` gives it, or `None` for `None`."""
    return None if value is None else cut(value)


def key_of(identity: str) -> str:
    """The key under which the archive keeps an id: the id itself, or a digest if it is too long or odd."""
    return identity if len(identity) <= _ID and clean(identity) == identity else _digest(identity)


def reference_of(identity: str) -> str:
    """The key of an id, for the narrower columns of the alerts."""
    return identity if len(identity) <= _REFERENCE and clean(identity) == identity else _digest(identity)


def plausible(at: datetime, now: datetime) -> datetime:
    """An instant by somebody else's clock; `now` if that clock is over a day ahead or was never set."""
    return at if _NEVER_SET < at <= now + _AHEAD else now


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
