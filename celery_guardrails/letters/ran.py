"""Whether the body of dead work may have run already, so that putting it back may do the work twice.

Owns the rule, by what is known when a letter is made, and the words for people. A body that raised has run, too, but
has reported its failure: it counts only if the task promised to run at most once.
"""

from __future__ import annotations

from celery_guardrails.policy.decision import Reason

__all__ = ["MAY_HAVE_RUN", "may_have_run", "why_may_have_run"]

MAY_HAVE_RUN = "may have run already"
"""The words for it in every text and command."""

_NEVER_BEGAN = frozenset({Reason.EXPIRED, Reason.UNKNOWN_TASK, Reason.UNDECODABLE})
_UNKNOWN_END = {
    Reason.WORKER_LOST: "it was running when its worker was killed, and may have done part of its work",
    Reason.RESULT_UNSTORABLE: "its body had succeeded, or may have: its result or its callbacks got lost",
    Reason.CANCELLED: "it was ended while it ran, or its broker may have given it to another worker",
}
_IN_DOUBT = "its next attempt may have been published all the same"
_AT_MOST_ONCE = "it is to run at most once (acks early), and its body had begun"


def may_have_run(reason: Reason, *, late: bool, in_doubt: bool = False) -> bool:
    """Whether the body may have done its work, by all that is known.

    Args:
        reason: why the work is dead.
        late: whether its message was to be acknowledged after the end of the body: such work may run twice anyway.
        in_doubt: whether the broker may have the message all the same, so that the work may run, or may have run.
    """
    if in_doubt:
        return True
    return reason not in _NEVER_BEGAN and (reason in _UNKNOWN_END or not late)


def why_may_have_run(reason: str) -> str:
    """Why the work of a letter with this reason may have run, as a clause."""
    known = {each.value: words for each, words in _UNKNOWN_END.items()}
    return known.get(reason, _IN_DOUBT if reason == Reason.RETRY_UNPUBLISHABLE else _AT_MOST_ONCE)
