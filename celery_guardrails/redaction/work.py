"""How much of a value is read, so that 50 MB of arguments take no longer than their short preview needs."""

from __future__ import annotations

__all__ = ["Work"]


class Work:
    """How many characters and values may still be read; one `Work` for everything that is shown together.

    Args:
        characters: the characters of all texts together.
        values: how many containers, items and other values.
    """

    __slots__ = ("characters", "is_cut", "values")

    def __init__(self, characters: int = 256 * 1024, values: int = 20_000) -> None:
        self.characters = characters
        self.values = values
        self.is_cut = False
        """Whether a part was left out."""

    def takes_value(self) -> bool:
        """Whether one more value may be read; counts it."""
        self.values -= 1
        if self.values < 0:
            self.is_cut = True
        return self.values >= 0

    def take(self, length: int, longest: int) -> int:
        """How many characters of a text of this length may be read; counts them."""
        taken = min(length, longest, self.characters)
        self.characters -= taken
        if taken < length:
            self.is_cut = True
        return taken
