"""Whether a group got worse since its last message in the channel, and by which rule: pure, a rule a function.

It must not know what follows from it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.alerts.intent import Notice
from celery_guardrails.alerts.tally import rank

__all__ = ["AT_ONCE", "worse", "worse_total"]

AT_ONCE = frozenset({Notice.SEVERITY_ROSE})
"""What need not wait for the least time between two messages in the channel."""

_FEWEST = 10
"""Fewer letters in five minutes are no rate to speak of."""
_HITS, _FEW_HITS, _SHARE = 5, 2, 0.1


def worse(group: AlertGroup, now: datetime) -> Notice | None:
    """Why the group is worse than at its last message in the channel; `None`: it is not."""
    for notice, holds in _RULES:
        if holds(group, now):
            return notice
    return None


def worse_total(group: AlertGroup) -> bool:
    """Whether the total is at least double, and at least ten more, than at the last message in the channel."""
    return group.total >= max(2 * group.base, group.base + 10)


def _severity_rose(group: AlertGroup, _: datetime) -> bool:
    """Whether its severity is higher than that message said."""
    return group.spoken is not None and rank(group.severity) > rank(group.spoken.severity)


def _new_signal(group: AlertGroup, _: datetime) -> bool:
    """Whether another kind of trouble has come."""
    return group.spoken is not None and not set(group.signals) <= set(group.spoken.signals)


def _worse_rate(group: AlertGroup, now: datetime) -> bool:
    """Whether ten or more died in five minutes, three times as many as in the five minutes before that message."""
    if group.spoken is None:
        return False
    rate = group.rate(now)
    return rate >= _FEWEST and rate >= 3 * group.spoken.rate


def _new_error(group: AlertGroup, _: datetime) -> bool:
    """Whether a fingerprint is new: with 5 letters, or with a tenth of the period's letters and at least 2."""
    if group.spoken is None:
        return False
    known = group.spoken.errors
    return any(
        error.count >= _HITS or error.count >= max(_FEW_HITS, _SHARE * group.total)
        for fingerprint, error in group.errors.items()
        if fingerprint not in known
    )


_RULES: tuple[tuple[Notice, Callable[[AlertGroup, datetime], bool]], ...] = (
    (Notice.SEVERITY_ROSE, _severity_rose),
    (Notice.NEW_SIGNAL, _new_signal),
    (Notice.WORSE_TOTAL, lambda group, _: worse_total(group)),
    (Notice.WORSE_RATE, _worse_rate),
    (Notice.NEW_ERROR, _new_error),
)
