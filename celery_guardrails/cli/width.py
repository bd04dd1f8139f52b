"""How wide the columns of a table are where there is not room for all of them, and where long words are broken.

Names of tasks and reasons are one word to a terminal. They are broken behind a dot or an underline, not anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["broken", "longest_piece", "shared"]

_PIECE = re.compile(r"[^._@:/,=-]*(?:[._@:/,=-]+|$)")
_GAP = 2
_LEAST_FLEX, _NARROWEST_FLEX = 24, 12


def shared(
    room: int, natural: Sequence[int], least: Mapping[int, int], flex: int | None, titles: Sequence[str]
) -> dict[int, int]:
    """The widths of the columns that have to give way; none where there is room for everything.

    Args:
        room: columns of the terminal.
        natural: how wide each column would like to be.
        least: of those that can be broken into lines, how wide they must be at least, by their number.
        flex: the number of the one that gets what the others leave, and is cut.
        titles: of all, which are never cut.
    """
    left = room - _GAP * (len(natural) - 1)
    if sum(natural) <= left:
        return {}
    left -= sum(width for number, width in enumerate(natural) if number not in least and number != flex)
    widths = dict(least)
    spare = left - sum(least.values()) - (0 if flex is None else min(natural[flex], _LEAST_FLEX))
    while spare > 0 and (short := [number for number in widths if widths[number] < natural[number]]):
        widths[max(short, key=lambda number: natural[number] / widths[number])] += 1
        spare -= 1
    if flex is not None:
        widths[flex] = max(_NARROWEST_FLEX, len(titles[flex]), left - sum(widths.values()))
    return widths


def longest_piece(text: str) -> int:
    """How wide the longest part of a text is that is not broken."""
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
