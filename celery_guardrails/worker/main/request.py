"""A worker's request of a guarded task: it passes the original message on, and sees the ends that Celery reports to it.

Owns the seams to Celery's `Request` in the worker's main process (in the pools threads, gevent and solo, that process
runs the task, too). `ending.py` and `redelivery.py` do the work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, ClassVar

from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker import state
from celery.worker.request import Request

from celery_guardrails.app.guardrails import is_plain
from celery_guardrails.figures.summary import AttemptOutcome
from celery_guardrails.letters.header import HEADER
from celery_guardrails.letters.work import new_token
from celery_guardrails.transport.journal.journal import Slot
from celery_guardrails.transport.routing import restore
from celery_guardrails.worker.failure.once import is_once
from celery_guardrails.worker.failure.original import ORIGINAL, Original, original_of
from celery_guardrails.worker.failure.sentry import Facts
from celery_guardrails.worker.main import counting, ending, journal, lease, redelivery, unguarded
from celery_guardrails.worker.main.ended import Ended
from celery_guardrails.worker.main.seen import Copy
from celery_guardrails.worker.main.time_limit import TimeLimit

__all__ = ["ORIGINAL", "GuardedRequest", "Original", "original_of"]


logger = logging.getLogger("celery_guardrails.worker")


class _CelerysPart(Request):  # type: ignore[misc]
    """What Celery itself does at an end; skipped while `silent`, because it is done already or must not be done.

    It is a base of `GuardedRequest`, and comes after an application's own request class, which sees each end.
    """

    silent: bool = False

    def on_failure(self, *args: Any, **options: Any) -> None:
        if not self.silent:
            super().on_failure(*args, **options)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        if not self.silent:
            super().on_timeout(soft, timeout)

    def on_retry(self, exc_info: Any) -> None:
        if not self.silent:
            super().on_retry(exc_info)


class GuardedRequest(_CelerysPart):
    """Celery's request, which also passes the original message to the child, and settles every end of its task.

    If a task class has its own request class, this one is mixed over it (`app/request_class.py`).
    """

    below: ClassVar[tuple[type, ...]] = (_CelerysPart,)
    """The classes that come after an application's own request class."""
    is_mixed: ClassVar[bool] = False
    """Whether this class is mixed over an application's own request class."""
    known: ClassVar[Ended] = Ended()
    """The messages that this process has acknowledged because their work was over."""
    settled: bool = False
    """Whether the end is settled: a further report of the pool changes nothing."""
    limit: TimeLimit | None = None
    """The hard time limit, from the pool's first report to the second."""
    dead_lettered: Facts | None = None
    """What Sentry gets of the dead letter, until Celery has announced the end."""
    begin: Callable[[], bool] | None = None
    """Sets a mark in the broker when a task that may have killed its worker begins; returns whether it may run."""
    was_revoked: bool = False
    """Whether somebody had revoked the task before Celery found that it is past its `expires`."""
    goes_back: bool | None = None
    """Whether an unfinished message goes back to its queue (`True`), or the work goes on without it (`False`); set just
    before the message is rejected or acknowledged."""
    run_owner: str | None = None
    """The name of this run in the ledger, if its work takes effect once."""
    slot: Slot | None = None
    """The journal's entry of a task that runs at most once, from before its acknowledgement to its end."""
    counted: bool = False
    """Whether the end of this attempt is counted."""
    unmark: Callable[[], None] | None = None
    """Removes the mark that `begin` has set."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Called when Celery derives its class for one task from ours: its own `on_success` replaces all below it."""
        super().__init_subclass__(**options)
        theirs = vars(cls).get("on_success")
        if theirs is not None and theirs.__module__ == Request.__module__:
            cls.on_success = counting.counting(theirs)

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        request = self._request_dict
        restore(self._app, message, self._delivery_info)
        # Celery sends these body and header objects to the child anyway: pickle writes each object only once.
        header = request.get(HEADER)
        once = is_once(self._task, header) and not is_plain(self._task)
        # of work that takes effect once, each delivery is a run of its own for the ledger
        arrival = None if type(header) is dict and "work" in header and not once else new_token()
        if once:
            self.run_owner = arrival
            lease.note_arrival(self)
        original = (message.body, message.content_type, message.content_encoding, message.headers, arrival)
        request["properties"] = {**request["properties"], ORIGINAL: original}
        came_before = type(header) is dict and ("crashes" in header or "dead_letter_id" in header)
        if came_before or request.get("retries") or self._delivery_info["redelivered"]:
            # Set on the instance, because the class that Celery derives from this one has its own `execute_using_pool`.
            # Other messages, which come for the first time, go Celery's way.
            self.execute_using_pool = partial(redelivery.execute, self)
        elif not self._task.acks_late:
            self.execute_using_pool = partial(redelivery.execute_once, self)

    @cached_property
    def received_copy(self) -> Copy:
        """Which copy of its work this is; worked out once, because its message does not change."""
        return Copy.of(self)

    def acknowledge(self) -> None:
        """Called when the task is over; if it runs at most once, just before it begins."""
        if self._task.acks_late and not self.acknowledged:
            self.known.note(self)
        super().acknowledge()

    def let_go(self) -> None:
        """Acknowledge a message whose work is not over: it goes on as another message, or in another request."""
        self.goes_back = False
        super().acknowledge()

    def reject(self, requeue: bool = False) -> None:
        """Called to give the message back to its queue, or to drop it (`requeue=False`)."""
        if not requeue and self._task.acks_late and not self.acknowledged:
            self.known.note(self)
        self.goes_back = requeue
        super().reject(requeue)

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False, **options: Any
    ) -> None:
        """Called by Celery for every outcome of the pool that is not a success."""
        celery = partial(super().on_failure, send_failed_event=send_failed_event, return_ok=return_ok, **options)
        unguarded.report_failure(self, exc_info)
        counting.count_reported(self, exc_info)
        try:
            ending.settle_failure(self, exc_info, return_ok, celery)
        finally:
            counting.count_rest(self, exc_info, return_ok)
            if not self._already_cancelled:  # else whoever cancels it publishes its letter, and ends the entry
                journal.end(self, reported=return_ok)

    def on_retry(self, exc_info: Any) -> None:
        """Called by Celery when the pool has published another attempt."""
        redelivery.note_retry(self)
        counting.count_reported(self, exc_info)
        counting.count_as(self, AttemptOutcome.RETRIED)
        super().on_retry(exc_info)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Called by the pool when a time limit has passed."""
        celery = partial(super().on_timeout, soft, timeout)
        if soft:
            celery()
        else:
            unguarded.report_time_limit(self, timeout)
            ending.settle_time_limit(self, timeout, celery)
            journal.end(self, reported=False)

    def fail_as_celery(self, exc_info: Any) -> None:
        """Handle a failure as Celery, and an application's own request class, do without guardrails."""
        super().on_failure(exc_info)

    def pass_to_application(self, call: Callable[[], Any]) -> None:
        """Have an application's own request class see an end, without Celery's part. If it raises, the error is logged.

        Args:
            call: calls the method of Celery's request for that end, which the application's class overrides.
        """
        if not self.is_mixed:
            return
        self.silent = True
        try:
            call()
        except Exception:
            logger.warning("the request class of %s failed on its end", self.name, exc_info=True)
        finally:
            self.silent = False

    def pass_retry_to_application(self, exc_info: Any) -> None:
        """Have an application's own request class see a retry that the main process has published."""
        self.pass_to_application(partial(super().on_retry, exc_info))

    def maybe_expire(self) -> Any:
        """Called by Celery, which notes an expired task as revoked: so remember first whether it was revoked."""
        self.was_revoked = self.id in state.revoked
        return super().maybe_expire()

    def cancel(self, pool: Any, *args: Any, **kwargs: Any) -> None:
        """Called by Celery at a cold shutdown. Solo's pool cannot cancel: its error would end the task's body."""
        try:
            super().cancel(pool, *args, **kwargs)
        except NotImplementedError:
            if not isinstance(pool, SoloPool) or is_plain(self.task):
                raise
            logger.warning("%s[%s] runs to its end: this pool cannot cancel it", self.name, self.id)

    def _announce_cancelled(self, *args: Any, **kwargs: Any) -> None:
        unguarded.report_cancel(self)
        ending.settle_cancel(self, partial(super()._announce_cancelled, *args, **kwargs))
        journal.end(self, reported=False)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        celery = partial(super()._announce_revoked, reason, terminated, signum, expired)
        is_expired = expired and not self.was_revoked
        unguarded.report_revocation(self, is_expired)
        if is_expired:
            ending.settle_expiry(self, celery)
        else:
            ending.settle_revocation(self, celery)
        journal.end(self, reported=False)
