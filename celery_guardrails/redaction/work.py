"""How much of a value is looked at, so that 50 MB of arguments take no longer than what is shown of them needs."""

from __future__ import annotations

__all__ = ["Work"]


class Work:
    """The characters and values that may still be looked at; one for all that is shown together.

    Args:
        characters: of texts, together.
        values: containers, their items and all else.
    """

    __slots__ = ("characters", "is_cut", "values")

    def __init__(self, characters: int = 256 * 1024, values: int = 20_000) -> None:
        self.characters = characters
        self.values = values
        self.is_cut = False
        """Whether something was left out."""

    def takes_value(self) -> bool:
        """Whether one more value may be looked at."""
        self.values -= 1
        if self.values < 0:
            self.is_cut = True
        return self.values >= 0

    def take(self, length: int, longest: int) -> int:
        """How many characters of a text of this length may be looked at."""
        taken = min(length, longest, self.characters)
        self.characters -= taken
        if taken < length:
            self.is_cut = True
        return taken
