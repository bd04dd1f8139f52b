"""Spreads a delay at random, so that tasks that failed together do not run again together.

Owns the forms and their bounds; the random source is passed in. It must not know attempts or deadlines.
"""

from __future__ import annotations

from random import Random

from celery_guardrails.policy.field import Jitter

__all__ = ["bounds", "spread"]


def spread(jitter: Jitter, delay: float, *, base: float, cap: float, previous: float | None, rng: Random) -> float:
    """The seconds to wait, drawn uniformly within `bounds`."""
    return rng.uniform(*bounds(jitter, delay, base=base, cap=cap, previous=previous))


def bounds(jitter: Jitter, delay: float, *, base: float, cap: float, previous: float | None) -> tuple[float, float]:
    """The shortest and the longest wait that a delay may become, in seconds.

    Args:
        jitter: a ratio `r` gives `delay * (1 - r)` to `delay * (1 + r)`; `"full"` 0 to `delay`; `"equal"` half of
            it to `delay`; `"none"` exactly `delay`; `"decorrelated"` `base` to 3 x `previous`, at most `cap`.
        delay: the backoff's delay in seconds.
        base: the backoff's first delay in seconds; for `"decorrelated"`.
        cap: the longest delay in seconds; for `"decorrelated"`.
        previous: the seconds waited before the attempt that has just failed; `None`: it was the first.

    The formulas of full, equal and decorrelated are those of AWS, "Exponential Backoff And Jitter" (2015).
    """
    if isinstance(jitter, float):
        return delay * (1 - jitter), delay * (1 + jitter)
    if jitter == "full":
        return 0.0, delay
    if jitter == "equal":
        return delay / 2, delay
    if jitter == "decorrelated":
        low = min(base, cap)
        return low, max(low, min(cap, 3 * (base if previous is None else previous)))
    return delay, delay
