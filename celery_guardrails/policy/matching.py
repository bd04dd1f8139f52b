"""Whether a policy's rules match a failure, and how near: by class, by dotted path, by predicate.

The distance is the place in the exception's MRO: 0 is the class itself. A predicate that says yes counts as 0; one that
raises does not match, and is logged. It must not know attempts, delays or deadlines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TypeVar

from celery_guardrails.policy.dotted import dotted_name, resolve
from celery_guardrails.policy.failure import Cause, Failure
from celery_guardrails.policy.field import Matcher
from celery_guardrails.policy.policy import Policy

__all__ = ["distance", "nearest_rule", "refusal"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PERMANENT = "celery_guardrails.errors.PermanentError"
_TRANSIENT = "celery_guardrails.errors.TransientError"


def distance(matchers: Iterable[Matcher], failure: Failure | Cause) -> int | None:
    """How near the nearest matching rule is; `None`: no rule matches."""
    found = [place for matcher in matchers if (place := _place(matcher, failure)) is not None]
    return min(found, default=None)


def nearest_rule(rules: Mapping[type[BaseException] | str, T], failure: Failure) -> T | None:
    """The value of the rule nearest in the failure's MRO, else in its cause's, else for its category; else `None`."""
    for error in (failure, failure.cause):
        found = {key: place for key in rules if error and (place := _place(key, error)) is not None}
        if found:
            return rules[min(found, key=found.__getitem__)]
    return rules.get(failure.category.value)


def refusal(policy: Policy, failure: Failure) -> str | None:
    """Why the policy does not retry this failure, in words; `None`: it does.

    A task raises `PermanentError` and `TransientError` to say what should happen: the first counts as an entry of every
    `give_up_on`, the second of every `retry_on`. Where only its cause makes an error transient, `give_up_on` applies to
    the cause, too.
    """
    give_up = distance((*policy.give_up_on, _PERMANENT), failure)
    if policy.retry_on is None:
        if give_up is None and failure.cause is not None:
            give_up = distance(policy.give_up_on, failure.cause)
        retry = 0 if failure.transient else distance((_TRANSIENT,), failure)
        if give_up is not None:
            return f"{failure.named} is not to be retried"
        if retry is None:
            what = (
                "an error of unknown kind"
                if failure.transient is None
                else f"an error that another attempt would not mend ({failure.category})"
            )
            return f"{failure.error} is {what}, and the policy names no other errors to retry"
        return None
    retry = distance((*policy.retry_on, _TRANSIENT), failure)
    if retry is None:
        return f"{failure.error} is not among the errors to retry"
    if give_up is not None and give_up <= retry:
        return f"{failure.error} is not to be retried"
    return None


def _place(matcher: Matcher, failure: Failure | Cause) -> int | None:
    if isinstance(matcher, type):
        return _index(dotted_name(matcher), failure)
    if isinstance(matcher, str):
        place = _index(matcher, failure)
        return _index(resolve(matcher), failure) if place is None else place
    if failure.exception is None:
        return None
    try:
        return 0 if matcher(failure.exception) else None
    except Exception as error:  # noqa: BLE001  a user's predicate must not decide by breaking
        logger.warning("predicate %s failed on %s, counted as no match: %r", dotted_name(matcher), failure.error, error)
        return None


def _index(name: str, failure: Failure | Cause) -> int | None:
    return failure.mro.index(name) if name in failure.mro else None
