"""Reading one field of a summary that came over the wire: of the right type and within bounds, or a ValueError.

Owns what a count, an instant and a name may be, and how a name that somebody else chose is made to fit. It must not
know which fields there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from celery_guardrails.clock import LATEST

__all__ = ["LONGEST_NAME", "count", "counts", "instant", "name", "number_up_to", "section", "stored_name"]

LONGEST_NAME = 255
"""Characters of a task's, an error's or a worker's name; a longer one is cut before it is counted."""

_HIGHEST = 2**53

K = TypeVar("K")
V = TypeVar("V")


def stored_name(text: str) -> str:
    """A name as it is counted: cut, and with a `?` for each character that cannot be shown or stored."""
    text = text[:LONGEST_NAME]
    if text.isprintable():
        return text or "?"
    return "".join(char if char.isprintable() else "?" for char in text)


def name(raw: object) -> str:
    """A name that `stored_name` may have made.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(raw, str) or not 0 < len(raw) <= LONGEST_NAME or not raw.isprintable():
        raise ValueError(f"a name has 1 to {LONGEST_NAME} printable characters")
    return raw


def count(raw: object) -> int:
    """A whole number, 0 or more.

    Raises:
        ValueError: it is not one.
    """
    if isinstance(raw, bool) or not isinstance(raw, int) or not 0 <= raw < _HIGHEST:
        raise ValueError("a count is a whole number, 0 or more")
    return raw


def instant(raw: object) -> float:
    """Seconds since 1970, before the year 3000.

    Raises:
        ValueError: it is not such a number.
    """
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not 0 <= raw < LATEST:
        raise ValueError("an instant is a number of seconds since 1970")
    return float(raw)


def number_up_to(most: int) -> Callable[[object], int]:
    """Reads a number from 1 to `most` that is a key of a JSON object."""

    def read(raw: object) -> int:
        number = int(raw) if isinstance(raw, str) and raw.isascii() and raw.isdigit() and len(raw) < 6 else 0
        if not 1 <= number <= most:
            raise ValueError(f"the number of an attempt is 1 to {most}")
        return number

    return read


def section(raw: object, key: Callable[[object], K], value: Callable[[object], V], most: int) -> dict[K, V]:
    """An object with at most so many entries; `None` counts as an empty one.

    Raises:
        ValueError: it is not one, it has more entries, or one of them cannot be read.
    """
    if raw is None:
        return {}
    if not isinstance(raw, Mapping) or len(raw) > most:
        raise ValueError(f"an object with at most {most} entries was expected")
    read = {key(each): value(raw[each]) for each in raw}
    if len(read) != len(raw):
        raise ValueError("two keys of an object mean the same")
    return read


def counts(raw: object, key: Callable[[object], K], most: int) -> dict[K, int]:
    """As `section`, of counts."""
    return section(raw, key, count, most)
