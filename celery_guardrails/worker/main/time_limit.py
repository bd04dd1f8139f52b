"""A hard time limit, which a pool reports in two steps: the next attempt or the letter first, then Celery tells of it.

    the pool reports a failure ──> publish      the pool reports that the limit has passed ──> tell

The prefork pool reports both, one after the other; gevent's reports the second only, which then does the work of both.
Owns what the first step leaves to the second.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from billiard.exceptions import TimeLimitExceeded

from celery_guardrails.policy.decision import DeadLetter, Decision, Reason, decide_time_limit
from celery_guardrails.worker.failure.failed_run import FailedRun
from celery_guardrails.worker.failure.outcome import rng
from celery_guardrails.worker.main.report import Tell, tell_and_acknowledge, tell_of_timeout
from celery_guardrails.worker.main.settlement import End, settle

__all__ = ["TimeLimit"]


class TimeLimit:
    """The hard time limit of one request.

    Args:
        request: the worker's request.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        self._is_published = False

    def publish(self, exc: TimeLimitExceeded, celery: Tell) -> None:
        """Step 1, for the report of a failure: publish the next attempt or the letter.

        Args:
            exc: the pool's error.
            celery: what Celery does with the report.
        """
        if settle(self._request, _end(exc, celery, None)) is not None:
            self._is_published = True
            self._request.hear(celery)

    def tell(self, timeout: float, celery: Tell) -> None:
        """Step 2, for the report of the limit: have Celery tell of what is published, unless there is nothing left.

        Args:
            timeout: seconds.
            celery: what Celery does with the report.
        """
        request, tell = self._request, partial(tell_of_timeout, self._request, timeout, celery)
        if request.settled:
            request.hear(celery)
        elif self._is_published:
            request.settled = True
            tell_and_acknowledge(request, tell)
        else:
            settle(request, _end(TimeLimitExceeded(timeout), celery, tell))


def _end(exc: TimeLimitExceeded, usual: Tell, tell: Tell | None) -> End:
    return End(exc, usual, tell, DeadLetter(Reason.TIME_LIMIT, str(exc)), _decide)


def _decide(run: FailedRun) -> Decision:
    return decide_time_limit(run.policy, run.failure, run.history, run.now, rng)
