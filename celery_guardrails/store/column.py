"""Values as the archive's columns hold them: text that every database takes, bounded, and ids.

Pure. It must not know which column a value is for.
"""

from __future__ import annotations

import hashlib

__all__ = ["LARGEST", "clean", "cut", "key_of"]

# A PostgreSQL index entry holds at most 2,704 bytes, a character takes up to 4
_INDEXED = 400
_ID = 100
LARGEST = 2**31 - 1
"""The largest generation or number of attempts that the tables hold; what claims to be more counts as this."""


def key_of(identity: str) -> str:
    """The id under which the archive keeps it: itself, or a digest where it is no id of ours but too long for one."""
    text = clean(identity)
    return text if len(text) <= _ID else hashlib.sha256(text.encode()).hexdigest()


def clean(value: str) -> str:
    """Text without what a database cannot hold."""
    # PostgreSQL refuses NUL, and both refuse half a surrogate pair: one such letter must not block its batch
    if value.isascii():
        return value.replace("\0", "\ufffd")
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def cut(value: str, limit: int = _INDEXED) -> str:
    """Text as the archive's columns hold it."""
    return clean(value[:limit])
