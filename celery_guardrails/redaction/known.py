"""Secrets that are known as values: what a task was given under a name that promises a secret.

Owns which of them are looked for, in which spellings, and where they stand by themselves.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["hide_values", "known_values"]

_SHORTEST = 6
"""Characters of a value that is looked for: a shorter one stands in other words."""
_LONGEST = 10_000
_MOST = 50


def known_values(values: Iterable[Any]) -> tuple[str, ...]:
    """The spellings of the values that are looked for, the longest first."""
    found: dict[str, None] = {}
    texts = (_text(value) for value in itertools.islice(values, 20 * _MOST))
    for text in itertools.islice((text for text in texts if text is not None), _MOST):
        found[text] = found[repr(text)[1:-1]] = None
    return tuple(sorted(found, key=len, reverse=True))


def hide_values(text: str, values: Iterable[str], mask: str) -> str:
    """The text with `mask` where one of the values stands and is no part of a longer word."""
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
