"""What a text column takes: text without NUL and lone surrogates, short enough for an index, and still its own.

Owns how a value is cut that is too long. What is cut by `cut` and `key_of` differs where the values differ, and both
leave alone what they have made themselves. It must not know a table.
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
"""Characters of the name of an argument, which has its value beside it."""
LARGEST = 2**31 - 1
"""The largest generation or number of attempts that the tables hold; what claims to be more counts as this."""
_ID = 100
_REFERENCE = 64
_DIGEST = 16
_AHEAD = timedelta(days=1)
_NEVER_SET = datetime(2000, 1, 1, tzinfo=timezone.utc)


def clean(value: str) -> str:
    """The text without what a database refuses: NUL (PostgreSQL), and half a surrogate pair (all of them)."""
    if value.isascii():
        return value.replace("\0", "\ufffd")
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def shortened(value: str, limit: int) -> str:
    """The beginning of a text that is only read."""
    return clean(value[:limit])


def cut(value: str, limit: int = INDEXED) -> str:
    """Text as the columns hold it by which letters are found; of one that is too long, its beginning and a digest."""
    if len(value) <= limit:
        return clean(value)
    return f"{clean(value[: limit - _DIGEST - 1])}~{_digest(value)[:_DIGEST]}"


def cut_or_none(value: str | None) -> str | None:
    """The same, where there may be none."""
    return None if value is None else cut(value)


def key_of(identity: str) -> str:
    """The id under which the archive keeps it: itself, or a digest where it is no id of ours, but too long or odd."""
    return identity if len(identity) <= _ID and clean(identity) == identity else _digest(identity)


def reference_of(identity: str) -> str:
    """The same for the narrower columns of the alerts."""
    return identity if len(identity) <= _REFERENCE and clean(identity) == identity else _digest(identity)


def plausible(at: datetime, now: datetime) -> datetime:
    """An instant that somebody else's clock says, or now, where that clock is over a day ahead or was never set."""
    return at if _NEVER_SET < at <= now + _AHEAD else now


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
