"""A hard time limit. A pool reports it twice: guardrails publishes at the first report, Celery announces at the second.

    the pool reports a failure ──> publish      the pool reports that the limit has passed ──> announce

The prefork pool makes both reports; gevent's makes the second only, and `announce` then publishes, too. Owns what the
first step leaves to the second.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from billiard.exceptions import TimeLimitExceeded

from celery_guardrails.policy.decision import DeadLetter, Decision, Reason, decide_time_limit
from celery_guardrails.worker.failure.failed_run import FailedRun
from celery_guardrails.worker.failure.outcome import rng
from celery_guardrails.worker.main.announcement import Announce, announce_and_acknowledge, announce_timeout
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

    def publish(self, exc: TimeLimitExceeded, celery: Announce) -> None:
        """Step 1, at the report of a failure: publish the next attempt or the letter.

        Args:
            exc: the pool's error.
            celery: what Celery does with the report.
        """
        if settle(self._request, _end(exc, celery, None)) is not None:
            self._is_published = True
            self._request.pass_to_application(celery)

    def announce(self, timeout: float, celery: Announce) -> None:
        """Step 2, at the report of the limit: have Celery announce the end, unless it is settled already.

        Args:
            timeout: the limit, in seconds.
            celery: what Celery does with the report.
        """
        request, announce = self._request, partial(announce_timeout, self._request, timeout, celery)
        if request.settled:
            request.pass_to_application(celery)
        elif self._is_published:
            request.settled = True
            announce_and_acknowledge(request, announce)
        else:
            settle(request, _end(TimeLimitExceeded(timeout), celery, announce))


def _end(exc: TimeLimitExceeded, usual: Announce, announce: Announce | None) -> End:
    return End(exc, usual, announce, DeadLetter(Reason.TIME_LIMIT, str(exc)), _decide)


def _decide(run: FailedRun) -> Decision:
    return decide_time_limit(run.policy, run.failure, run.history, run.now, rng)
