"""How many came within the last minutes: counts in ten slots of a span, so that an old burst is forgotten by itself.

Owns `Counts`, which is JSON-safe and has at most 11 entries. An instant that lies ahead, of a clock that was set back,
is forgotten, too.
"""
# on its own: the group keeps such counts, the engine's rules read them

from __future__ import annotations

from datetime import datetime, timedelta

__all__ = ["Counts", "count", "within"]

Counts = tuple[tuple[int, int], ...]
"""Pairs of slot number and count, oldest first. A slot is a tenth of the span, counted from 1970."""

_SLOTS = 10


def count(counts: Counts, now: datetime, span: timedelta, more: int = 1) -> Counts:
    """These counts with `more` at `now`.

    Args:
        counts: made with the same `span`.
        now: this instant.
        span: the time that `within` looks back.
        more: how many came.
    """
    slot = _slot(now, span)
    if counts and counts[-1][0] == slot:
        return (*counts[:-1], (slot, counts[-1][1] + more))
    return (*((at, number) for at, number in counts if slot - _SLOTS < at < slot), (slot, more))


def within(counts: Counts, now: datetime, span: timedelta) -> int:
    """How many came within the last `span`, to a tenth of it."""
    slot = _slot(now, span)
    return sum(number for at, number in counts if slot - _SLOTS < at <= slot)


def _slot(now: datetime, span: timedelta) -> int:
    return int(now.timestamp() * _SLOTS / max(span.total_seconds(), 1.0))
