"""A worker's request of a guarded task: the original message for the pool, and the ends that only main can see.

Owns the seams to Celery's `Request`, in the worker's main process (for the pools threads, gevent and solo that is the
process that runs the task, too). What is done there is in `ending.py` and `redelivery.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker import state
from celery.worker.request import Request

from celery_guardrails.app.guardrails import is_plain
from celery_guardrails.letters.header import HEADER
from celery_guardrails.letters.record import Letter
from celery_guardrails.letters.work import new_token
from celery_guardrails.policy import Policy
from celery_guardrails.redaction import Redactor
from celery_guardrails.transport.journal.journal import Slot
from celery_guardrails.transport.routing import restore
from celery_guardrails.worker.failure.original import ORIGINAL, Original, original_of
from celery_guardrails.worker.main import ending, journal, redelivery, unguarded
from celery_guardrails.worker.main.ended import Ended
from celery_guardrails.worker.main.time_limit import TimeLimit

__all__ = ["ORIGINAL", "GuardedRequest", "Original", "original_of"]


logger = logging.getLogger("celery_guardrails.worker")


class _CelerysPart(Request):  # type: ignore[misc]
    """What Celery itself does at an end: left out where it is done already, or is not to be done.

    It is the base of ours, and stands below the request class of an application's own, which sees the end in any case.
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
    """Celery's request, with the original message for the child, which leaves no end of a task unseen.

    A task class with a request class of its own gets this one mixed over that one (`app/request_class.py`).
    """

    below: ClassVar[tuple[type, ...]] = (_CelerysPart,)
    """What stands below an application's own request class."""
    is_mixed: ClassVar[bool] = False
    """Whether an application's own request class is below this one."""
    known: ClassVar[Ended] = Ended()
    """Which messages this process has done with."""
    settled: bool = False
    """Whether its end is settled here: what the pool still reports of it has nothing to add."""
    limit: TimeLimit | None = None
    """Its hard time limit, from the pool's first report to the second."""
    dead_lettered: tuple[Letter, Policy, Redactor] | None = None
    """Its letter, with the policy that was in force, until Celery has told of its end."""
    begin: Callable[[], bool] | None = None
    """Sets the mark that says that this suspect runs."""
    was_revoked: bool = False
    """Whether somebody had revoked it when it was seen to be past its `expires`."""
    goes_back: bool | None = None
    """Whether a message whose work is not over goes back, or goes on as another; set just before its broker is told."""
    slot: Slot | None = None
    """Its entry in the journal, where it runs at most once, from before its acknowledgement to its end."""
    unmark: Callable[[], None] | None = None
    """Takes away the mark that says that this suspect runs."""

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        request = self._request_dict
        restore(self._app, message, self._delivery_info)
        # Body and header values are the objects that are sent anyway: pickle writes them once.
        header = request.get(HEADER)
        arrival = None if type(header) is dict and "work" in header else new_token()
        original = (message.body, message.content_type, message.content_encoding, message.headers, arrival)
        request["properties"] = {**request["properties"], ORIGINAL: original}
        came_before = type(header) is dict and ("crashes" in header or "dead_letter_id" in header)
        if came_before or request.get("retries") or self._delivery_info["redelivered"]:
            # On the instance, because the class that Celery derives from this one has an `execute_using_pool` of its
            # own. A message that comes for the first time goes on as if this were not here.
            self.execute_using_pool = partial(redelivery.execute, self)
        elif not self._task.acks_late:
            self.execute_using_pool = partial(redelivery.execute_once, self)

    def acknowledge(self) -> None:
        """Called when the task is over, and for those that run at most once just before they begin."""
        if self._task.acks_late and not self.acknowledged:
            self.known.note(self)
        super().acknowledge()

    def let_go(self) -> None:
        """Acknowledge a message whose work goes on: as another one, or here."""
        self.goes_back = False
        super().acknowledge()

    def reject(self, requeue: bool = False) -> None:
        """Called when the message is to go back to its queue, or, after all, is not to."""
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
        try:
            ending.settle_failure(self, exc_info, return_ok, celery)
        finally:
            if not self._already_cancelled:  # else its letter is being sent just now, by whoever cancels it
                journal.end(self, heard=return_ok)

    def on_retry(self, exc_info: Any) -> None:
        """Called by Celery when the pool has published another attempt."""
        redelivery.retried(self)
        super().on_retry(exc_info)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Called by the pool when a time limit has passed."""
        celery = partial(super().on_timeout, soft, timeout)
        if soft:
            celery()
        else:
            unguarded.report_time_limit(self, timeout)
            ending.settle_time_limit(self, timeout, celery)
            journal.end(self, heard=False)

    def fail_as_celery(self, exc_info: Any) -> None:
        """What Celery, and an application's own request class, do at a failure."""
        super().on_failure(exc_info)

    def hear(self, call: Callable[[], Any]) -> None:
        """Have an application's own request class see an end, without Celery's part; what it raises is logged.

        Args:
            call: Celery's method for that end, such as goes there.
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

    def hear_retry(self, exc_info: Any) -> None:
        """Have an application's own request class see a retry that the main process has published."""
        self.hear(partial(super().on_retry, exc_info))

    def maybe_expire(self) -> Any:
        """Called by Celery, which puts the id of what has expired among those that were revoked."""
        self.was_revoked = self.id in state.revoked
        return super().maybe_expire()

    def cancel(self, pool: Any, *args: Any, **kwargs: Any) -> None:
        """Called by Celery at a cold shutdown, which solo's pool refuses: by an error in the body that runs there."""
        try:
            super().cancel(pool, *args, **kwargs)
        except NotImplementedError:
            if not isinstance(pool, SoloPool) or is_plain(self.task):
                raise
            logger.warning("%s[%s] runs to its end: this pool cannot cancel it", self.name, self.id)

    def _announce_cancelled(self, *args: Any, **kwargs: Any) -> None:
        unguarded.report_cancel(self)
        ending.settle_cancel(self, partial(super()._announce_cancelled, *args, **kwargs))
        journal.end(self, heard=False)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        celery = partial(super()._announce_revoked, reason, terminated, signum, expired)
        is_expired = expired and not self.was_revoked
        unguarded.report_revocation(self, is_expired)
        if is_expired:
            ending.settle_expiry(self, celery)
        else:
            ending.settle_revocation(self, celery)
        journal.end(self, heard=False)
