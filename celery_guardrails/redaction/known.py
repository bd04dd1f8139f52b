"""Secrets whose values are known: a task's arguments with names that promise a secret.

Owns which of them are searched for, in which spellings, and when a value stands by itself.
"""
# on its own: each way to recognise a secret is a file: by name, by pattern, by known value

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["hide_values", "known_values"]

_SHORTEST = 6
"""Least characters of a value that is searched for: a shorter value occurs in ordinary words."""
_LONGEST = 10_000
_MOST = 50


def known_values(values: Iterable[Any]) -> tuple[str, ...]:
    """The spellings to search for, the longest first."""
    found: dict[str, None] = {}
    texts = (_text(value) for value in itertools.islice(values, 20 * _MOST))
    for text in itertools.islice((text for text in texts if text is not None), _MOST):
        found[text] = found[repr(text)[1:-1]] = None
    return tuple(sorted(found, key=len, reverse=True))


def hide_values(text: str, values: Iterable[str], mask: str) -> str:
    """The text with `mask` in place of each value that is not a part of a longer word."""
    for value in values:
        if value in text:
            before, after = r"(?<!\w)" if value[0].isalnum() else "", r"(?!\w)" if value[-1].isalnum() else ""
            text = re.sub(f"{before}{re.escape(value)}{after}", lambda _: mask, text)
    return text


def _text(value: Any) -> str | None:
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value[:_LONGEST]).decode("latin-1")
    if not isinstance(value, str) or not _SHORTEST <= len(value.strip()) <= _LONGEST:
        return None
    return str(value)
