"""Figures of paired measurements: medians with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Pair", "alternate", "rotate"]


@dataclass(frozen=True)
class Pair:
    """What was measured of `ours` and `theirs`, round by round, in the same unit."""

    name: str
    ours: Sequence[float]
    theirs: Sequence[float]

    def ratios(self) -> list[float]:
        """Ours by theirs, pair by pair: the two of a pair ran one after the other."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    def differences(self) -> list[float]:
        """Ours less theirs, pair by pair."""
        return [a - b for a, b in zip(self.ours, self.theirs, strict=True)]


def alternate(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Measure both in turn, changing who goes first, so that a drift of the machine hits both alike."""
    a, b = [], []
    for index in range(rounds):
        if index % 2:
            b.append(theirs())
            a.append(ours())
        else:
            a.append(ours())
            b.append(theirs())
    return a, b


def rotate(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Measure several in turn, with another one first in each round; returns the figures of each."""
    found: list[list[float]] = [[] for _ in measures]
    for index in range(rounds):
        for step in range(len(measures)):
            which = (index + step) % len(measures)
            found[which].append(measures[which]())
    return found


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`median (min to max)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
