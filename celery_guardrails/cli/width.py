"""How wide the columns of a table are if there is not room for all of them, and where long words are broken.

Names of tasks and reasons are one word to a terminal. They are broken only after a dot, an underline or the like.
"""
# on its own: arithmetic on widths, drawn and tested without a terminal

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["GAP", "broken", "longest_piece", "longest_word", "shared", "spare"]

_PIECE = re.compile(r"[^._@:/,=-]*(?:[._@:/,=-]+|$)")
GAP = 2
_LEAST_FLEX = 30


def shared(room: int, natural: Sequence[int], least: Sequence[Mapping[int, int]]) -> list[int]:
    """The widths with which all columns fit, or the smallest ones if they cannot fit.

    Args:
        room: columns of the terminal.
        natural: how wide each column would like to be.
        least: which columns become narrower, by their number, and to which width; the first mapping is used first.
    """
    widths = list(natural)
    over = sum(widths) + GAP * (len(widths) - 1) - room
    for step in least:
        while over > 0 and (wide := [number for number in step if widths[number] > step[number]]):
            widths[max(wide, key=lambda number: widths[number])] -= 1
            over -= 1
    return widths


def spare(room: int, natural: Sequence[int], flex: int) -> int | None:
    """How wide the column with this number may be beside the others; `None`: too little, it needs its own line."""
    left = room - GAP * (len(natural) - 1) - sum(natural) + natural[flex]
    return min(left, natural[flex]) if left >= min(natural[flex], _LEAST_FLEX) else None


def longest_word(text: str) -> int:
    """How wide the longest word of a text is."""
    return max(map(len, text.split()), default=0)


def longest_piece(text: str) -> int:
    """How wide the longest part of a text is that cannot be broken."""
    return max((len(piece) for word in text.split() for piece in _PIECE.findall(word)), default=0)


def broken(text: str, width: int) -> str:
    """The text with its words that are longer than this broken into lines, where they have joints."""
    return " ".join(word if len(word) <= width else _lines(word, width) for word in text.split(" "))


def _lines(word: str, width: int) -> str:
    lines = [""]
    for piece in _PIECE.findall(word):
        if len(lines[-1]) + len(piece) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    return "\n".join(line for line in lines if line)
