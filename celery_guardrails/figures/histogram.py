"""How long things took, as counts in fixed classes of seconds: small, mergeable, and good enough for a percentile.

Owns the classes, which every process and every stored row share, and how a percentile is read from them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["BOUNDS", "Histogram"]

BOUNDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
    7200.0, 21_600.0, 86_400.0,
)  # fmt: skip
"""The upper bounds of the classes, in seconds, each included in its class; one more class has what is longer.

Never change them: stored counts would mean something else.
"""


@dataclass
class Histogram:
    """Counts of durations by class.

    Attributes:
        counts: by the index of the class in `BOUNDS`; `len(BOUNDS)` is the class above the last bound. Without zeros.
        total: the sum of all durations, in seconds.
    """

    counts: dict[int, int] = field(default_factory=dict)
    total: float = 0.0

    @property
    def number(self) -> int:
        """How many durations were counted."""
        return sum(self.counts.values())

    def add(self, seconds: float, times: int = 1) -> None:
        """Count a duration, in seconds; a negative one, of clocks that differ, counts as 0."""
        seconds = max(0.0, seconds)
        index = bisect_left(BOUNDS, seconds)
        self.counts[index] = self.counts.get(index, 0) + times
        self.total += seconds * times

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts to this one."""
        for index, count in other.counts.items():
            self.counts[index] = self.counts.get(index, 0) + count
        self.total += other.total

    def quantile(self, share: float) -> float | None:
        """The duration that this share of all (0 to 1) does not exceed; `None` without any.

        Interpolated within its class, as Prometheus's `histogram_quantile` does; above the last bound, that bound.
        """
        number = self.number
        if not number:
            return None
        rank, below = share * number, 0
        for index in sorted(self.counts):
            count = self.counts[index]
            if below + count >= rank:
                if index >= len(BOUNDS):
                    break
                lower = BOUNDS[index - 1] if index else 0.0
                return lower + (BOUNDS[index] - lower) * max(0.0, rank - below) / count
            below += count
        return BOUNDS[-1]

    def as_payload(self) -> dict[str, object]:
        """JSON-safe data, which `from_payload` reads back."""
        return {"counts": {str(index): count for index, count in self.counts.items()}, "total": round(self.total, 6)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, object]) -> Histogram:
        """Read what `as_payload` wrote.

        Raises:
            ValueError: a class or a count is not one, or the sum is not a number of seconds.
        """
        counts, total = payload.get("counts"), payload.get("total")
        if not isinstance(counts, Mapping) or isinstance(total, bool) or not isinstance(total, (int, float)):
            raise ValueError("a histogram has `counts` and a `total`")
        if not 0 <= total < float("inf"):
            raise ValueError("the sum of a histogram is a number of seconds, 0 or more")
        return cls(dict(_read(counts.items())), float(total))


def _read(entries: Iterable[tuple[object, object]]) -> Iterable[tuple[int, int]]:
    for name, count in entries:
        index = int(name) if isinstance(name, str) and name.isascii() and name.isdigit() else -1
        if not 0 <= index <= len(BOUNDS):
            raise ValueError("a class of a histogram is not known")
        if isinstance(count, bool) or not isinstance(count, int) or not 0 < count < 2**53:
            raise ValueError("a count of a histogram is a positive whole number")
        yield index, count
