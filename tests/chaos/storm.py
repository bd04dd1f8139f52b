"""When which fault comes: a seeded plan, and the loop that carries it out while the site is kept running.

Owns the plan, the instants and the record of what was applied. What a fault does is in `fault.py`.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.chaos.fault import FAULTS, Applied, Fault, Injector
from tests.chaos.site import Site

__all__ = ["Storm", "Struck", "planned"]

_SKIPS = 3
"""How often a fault that cannot be applied makes way for the next one before it is given up."""


@dataclass
class Struck:
    """One fault that was applied: `at` and `until` are epoch seconds."""

    fault: str
    at: float
    until: float
    effect: str
    target: int | None
    repeats: bool


def planned(rng: Random, count: int, restarts: int) -> list[Fault]:
    """So many faults in seeded order, of every kind at least one when `count` allows it.

    Args:
        rng: the order.
        count: how many.
        restarts: the weight of each kind of broker restart.
    """
    kinds = list(FAULTS.values())
    weights = [fault.weight if fault.weight >= 0 else restarts for fault in kinds]
    share = [max(1, round(count * weight / sum(weights))) for weight in weights]
    drawn = [fault for fault, number in zip(kinds, share, strict=True) for _ in range(number)]
    rng.shuffle(drawn)
    return (drawn + rng.choices(kinds, weights, k=max(0, count - len(drawn))))[:count]


class Storm:
    """Breaks a site.

    Args:
        site: what is broken; it is ticked all the while.
        rng: instants, victims, durations.
        count: how many faults are to be applied.
        gap: seconds between two faults, on average.
        say: called with a line of progress now and then.
    """

    def __init__(self, site: Site, rng: Random, count: int, gap: float, say: Callable[[str], None]) -> None:
        self.site, self._rng, self._count, self._gap, self._say = site, rng, count, gap, say
        self.struck: list[Struck] = []
        self._injector = Injector(site, rng)
        self._left = [(fault, 0) for fault in planned(rng, count, site.broker.restarts)]
        self._mends: list[tuple[float, int, Struck, Callable[[], None]]] = []
        self._order = itertools.count()

    def rage(self) -> None:
        """Apply all faults, then mend what lasts."""
        due = time.monotonic() + self._gap
        try:
            while len(self.struck) < self._count and self._left:
                now = time.monotonic()
                if now >= due:
                    self._strike()
                    due = max(due, now - 2 * self._gap) + self._rng.uniform(0.2, 1.8) * self._gap
                self._mend(now)
                self.site.tick()
                time.sleep(0.05)
        finally:
            self.calm()

    def calm(self) -> None:
        """Mend what is not mended yet."""
        self._mend(float("inf"))

    def _strike(self) -> None:
        fault, skipped = self._left.pop(0)
        at = time.time()  # it may break something well before it has done
        applied = fault.apply(self._injector)
        if applied is None:
            if skipped < _SKIPS:
                self._left.insert(min(len(self._left), 1 + self._rng.randrange(5)), (fault, skipped + 1))
            else:  # this kind cannot be had now: another one in its place, so that the number is reached
                self._left.append((FAULTS["pool child killed"], 0))
            return
        self._record(fault, at, applied)

    def _record(self, fault: Fault, at: float, applied: Applied) -> None:
        struck = Struck(fault.name, at, time.time() + applied.lasts, applied.effect, applied.target, fault.repeats)
        self.struck.append(struck)
        if applied.mend is not None:
            ends = time.monotonic() + applied.lasts
            heapq.heappush(self._mends, (ends, next(self._order), struck, applied.mend))
        if len(self.struck) % 10 == 0 or len(self.struck) == self._count:
            told = self.site.ledger.read()
            ended = {run.id for run in told.runs if run.ended_at is not None}
            self._say(f"{len(self.struck)} faults; {len(told.sent)} submitted, {len(ended)} succeeded so far")

    def _mend(self, now: float) -> None:
        while self._mends and self._mends[0][0] <= now:
            _, _, struck, mend = heapq.heappop(self._mends)
            mend()
            struck.until = time.time()
