"""How long to wait before the next attempt, before jitter: the backoff forms and their arithmetic.

`delay` never overflows, and an error in a user's callable never costs the task its retry.
It must not know policies, jitter or deadlines.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from celery_guardrails.clock import LONGEST, Duration, format_duration, parse_duration
from celery_guardrails.errors import Fault
from celery_guardrails.policy import faults
from celery_guardrails.policy.failure import Failure

__all__ = ["DEFAULT", "Backoff", "Constant", "Exponential", "Linear", "Schedule", "delay", "is_tenacity_wait", "limits"]

logger = logging.getLogger(__name__)

_LONGEST_SECONDS = LONGEST.total_seconds()


@dataclass(frozen=True, slots=True, init=False)
class Exponential:
    """Wait `base`, then `factor` times as long after each further failure, never longer than `cap`.

    Args:
        base: the delay after the first failure.
        factor: at least 1.
        cap: the longest delay, or `None` for ten years.

    Raises:
        ConfigurationError: a duration cannot be read, or the factor is below 1.
    """

    base: timedelta
    factor: float
    cap: timedelta | None

    def __init__(self, base: Duration, factor: float = 3, cap: Duration | None = "5m") -> None:
        _set(self, "base", _duration("base", base, timedelta(seconds=5)))
        _set(self, "factor", _number("factor", factor, 3, least=1))
        _set(self, "cap", None if cap is None else _duration("cap", cap, timedelta(minutes=5)))

    def seconds(self, attempt: int) -> float:
        """The delay in seconds after this failed attempt; the first is 1."""
        base, cap = self.base.total_seconds(), _cap(self.cap)
        if base == 0 or base >= cap:
            return min(base, cap)
        # Compare logarithms first: with factor 3, the power itself overflows a float near attempt 650.
        if self.factor > 1 and (attempt - 1) * math.log(self.factor) >= math.log(cap / base):
            return cap
        return min(base * float(self.factor) ** (attempt - 1), cap)

    def __str__(self) -> str:
        return f'Exponential("{format_duration(self.base)}", factor={self.factor:g}{_shown_cap(self.cap)})'


@dataclass(frozen=True, slots=True, init=False)
class Constant:
    """Wait the same time after each failure.

    Raises:
        ConfigurationError: the duration cannot be read.
    """

    wait: timedelta

    def __init__(self, wait: Duration) -> None:
        _set(self, "wait", _duration("wait", wait, timedelta(seconds=5)))

    def seconds(self, attempt: int) -> float:
        """The delay in seconds, the same for every attempt."""
        return self.wait.total_seconds()

    def __str__(self) -> str:
        return f'Constant("{format_duration(self.wait)}")'


@dataclass(frozen=True, slots=True, init=False)
class Linear:
    """Wait `base`, then `step` longer after each further failure, never longer than `cap`.

    Args:
        base: the delay after the first failure.
        step: what each further failure adds; `None` is as long as `base`.
        cap: the longest delay, or `None` for ten years.

    Raises:
        ConfigurationError: a duration cannot be read.
    """

    base: timedelta
    step: timedelta
    cap: timedelta | None

    def __init__(self, base: Duration, step: Duration | None = None, cap: Duration | None = "5m") -> None:
        _set(self, "base", _duration("base", base, timedelta(seconds=5)))
        _set(self, "step", self.base if step is None else _duration("step", step, timedelta(seconds=5)))
        _set(self, "cap", None if cap is None else _duration("cap", cap, timedelta(minutes=5)))

    def seconds(self, attempt: int) -> float:
        """The delay in seconds after this failed attempt; the first is 1."""
        return min(self.base.total_seconds() + self.step.total_seconds() * (attempt - 1), _cap(self.cap))

    def __str__(self) -> str:
        return f'Linear("{format_duration(self.base)}", step="{format_duration(self.step)}"{_shown_cap(self.cap)})'


@dataclass(frozen=True, slots=True, init=False)
class Schedule:
    """Wait the listed times, one after each failure; the last one repeats.

    Raises:
        ConfigurationError: the list is empty, or an entry cannot be read.
    """

    waits: tuple[timedelta, ...]

    def __init__(self, waits: Sequence[Duration]) -> None:
        if isinstance(waits, str) or not isinstance(waits, Sequence) or not waits:
            problem = "is not a list of at least one duration"
            faults.report(
                [Fault("backoff.waits", faults.shown(waits), problem, suggestion='write ["5s", "15s", "1m"]')]
            )
            waits = ("5s",)
        _set(self, "waits", tuple(_duration("waits", wait, timedelta(seconds=5)) for wait in waits))

    def seconds(self, attempt: int) -> float:
        """The delay in seconds after this failed attempt; the first is 1."""
        return self.waits[min(attempt, len(self.waits)) - 1].total_seconds()

    def __str__(self) -> str:
        listed = ", ".join(f'"{format_duration(wait)}"' for wait in self.waits)
        return f"Schedule([{listed}])"


Backoff = Exponential | Constant | Linear | Schedule | Callable[..., Any]
"""A form above, a callable `(attempt, failure) -> seconds or timedelta`, or any tenacity wait."""


def delay(backoff: Backoff, attempt: int, failure: Failure) -> float:
    """The seconds to wait after this failed attempt, before jitter; 0 to ten years, for every attempt.

    A callable that raises, or returns anything but a duration, is logged, and the default backoff is used.
    """
    if isinstance(backoff, (Exponential, Constant, Linear, Schedule)):
        return backoff.seconds(attempt)
    try:
        arguments = (_retry_state(attempt, failure),) if is_tenacity_wait(backoff) else (attempt, failure)
        value = backoff(*arguments)
        if value == math.inf:  # what a tenacity wait computes when nothing caps it
            return _LONGEST_SECONDS
        return parse_duration(value).total_seconds()
    except Exception as error:  # noqa: BLE001  a user's callable must not cost the task its retry
        logger.warning("backoff %r failed at attempt %d, using %s: %r", backoff, attempt, DEFAULT, error)
        return DEFAULT.seconds(attempt)


def limits(backoff: Backoff, seconds: float, failure: Failure) -> tuple[float, float]:
    """The first and the longest delay of a backoff, in seconds; `seconds` is the delay of this attempt.

    Nobody knows the longest delay of a callable: the longer of its first delay and this attempt's is taken for it.
    """
    first = delay(backoff, 1, failure)
    if isinstance(backoff, (Exponential, Linear)):
        return first, _cap(backoff.cap)
    if isinstance(backoff, Schedule):
        return first, max(backoff.waits).total_seconds()
    return first, max(first, seconds)


def is_tenacity_wait(backoff: object) -> bool:
    """Whether this is a tenacity wait; the module of its classes says so, because tenacity need not be installed."""
    return any(cls.__module__ == "tenacity.wait" for cls in type(backoff).__mro__)


def _retry_state(attempt: int, failure: Failure) -> Any:
    outcome = SimpleNamespace(failed=True, exception=lambda: failure.exception)
    return SimpleNamespace(attempt_number=attempt, outcome=outcome, idle_for=0.0, seconds_since_start=0.0)


def _set(target: object, name: str, value: object) -> None:
    object.__setattr__(target, name, value)


def _cap(cap: timedelta | None) -> float:
    return _LONGEST_SECONDS if cap is None else cap.total_seconds()


def _shown_cap(cap: timedelta | None) -> str:
    return ", cap=None" if cap is None else f', cap="{format_duration(cap)}"'


def _duration(name: str, value: Duration, fallback: timedelta) -> timedelta:
    try:
        return parse_duration(value)
    except ValueError as error:
        faults.report([Fault(f"backoff.{name}", faults.shown(value), str(error))])
        return fallback


def _number(name: str, value: float, fallback: float, *, least: float) -> float:
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= least
    if not right:
        problem = f"is not a number of at least {least:g}"
        faults.report([Fault(f"backoff.{name}", faults.shown(value), problem, suggestion=f"write {name}={fallback:g}")])
        return fallback
    return value


DEFAULT = Exponential("5s", factor=3, cap="5m")
"""The backoff of a policy that names none."""
