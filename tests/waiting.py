"""How tests wait: for a condition, with a bound. Nothing in the tests sleeps for a fixed time to be lucky."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["wait_until"]

_T = TypeVar("_T")


def wait_until(
    condition: Callable[[], _T], bound: float = 30.0, describe: str | Callable[[], str] = "", every: float = 0.05
) -> _T:
    """Wait until `condition()` is true and return what it gave.

    Args:
        condition: called every `every` seconds; an exception of its own ends the wait at once.
        bound: seconds after which the wait fails.
        describe: what was waited for, or a callable that says so (called only on failure, so it may be costly).

    Raises:
        AssertionError: the bound passed; the message says what was waited for and the last value seen.
    """
    ends = time.monotonic() + bound
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= ends:
            what = describe() if callable(describe) else describe
            raise AssertionError(f"not within {bound:g} s: {what or repr(condition)} (last value: {value!r})")
        time.sleep(every)
