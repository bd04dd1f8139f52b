"""A row of numbers as one line of bars, in blocks or, where the terminal has none, in ASCII."""
# on its own: drawn and tested without a terminal

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["drawable", "sparkline"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN = "_.-:=+*#"


def drawable(encoding: str | None) -> bool:
    """Whether text of this encoding can hold the blocks."""
    try:
        _BLOCKS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def sparkline(values: Sequence[float], *, blocks: bool) -> str:
    """One character for each value, the largest the highest; a value above 0 never looks like 0.

    Args:
        values: 0 or more each.
        blocks: whether the terminal can show block characters.
    """
    signs = _BLOCKS if blocks else _PLAIN
    highest = max(values, default=0)
    steps = len(signs) - 1
    return "".join(signs[0 if value <= 0 else max(1, round(value / highest * steps))] for value in values)
