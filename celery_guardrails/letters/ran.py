"""Whether the body of dead work may have run already, so that putting it back may do the work twice.

Owns the rule, from what is known when a letter is made, and the words for people. A body that raised has run too, but
says itself that it failed: it counts only where the task promised to run at most once.
"""

from __future__ import annotations

from celery_guardrails.policy.decision import Reason

__all__ = ["MAY_HAVE_RUN", "may_have_run", "why_may_have_run"]

MAY_HAVE_RUN = "may have run already"
"""What every text and command calls it."""

_NEVER_BEGAN = frozenset({Reason.EXPIRED, Reason.UNKNOWN_TASK, Reason.UNDECODABLE})
_UNKNOWN_END = {
    Reason.WORKER_LOST: "it was running when its worker was killed, and may have done part of its work",
    Reason.RESULT_UNSTORABLE: "its body had succeeded, or may have: its result or its callbacks got lost",
    Reason.CANCELLED: "it was ended while it ran, or its broker may have given it to another worker",
}
_IN_DOUBT = "its next attempt may have been published all the same"
_AT_MOST_ONCE = "it is to run at most once (acks early), and its body had begun"


def may_have_run(reason: Reason, *, late: bool, in_doubt: bool = False) -> bool:
    """Whether the body may have done its work, for all that is known.

    Args:
        reason: why it is dead.
        late: whether its message was to be acknowledged when it ended, so that it may run twice by itself.
        in_doubt: whether it may be with the broker nevertheless, and run, or have run, from there.
    """
    if in_doubt:
        return True
    return reason not in _NEVER_BEGAN and (reason in _UNKNOWN_END or not late)


def why_may_have_run(reason: str) -> str:
    """In words, why the work of a letter with this reason may have run: a clause about it."""
    known = {each.value: words for each, words in _UNKNOWN_END.items()}
    return known.get(reason, _IN_DOUBT if reason == Reason.RETRY_UNPUBLISHABLE else _AT_MOST_ONCE)
