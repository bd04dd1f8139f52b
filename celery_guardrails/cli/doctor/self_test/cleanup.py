"""Removes what a self-test leaves behind, wherever the test ended.

Owns that only the canary's letter stays, in the archive: recovered, or discarded where it could not recover. The reason
in its audit entries is `doctor --self-test`.
"""

from __future__ import annotations

from celery_guardrails import clock
from celery_guardrails.cli.actor import whoever_runs_this
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.errors import DeadLetterError, PublishError, StoreError, Unlistable
from celery_guardrails.recovery import search, transition
from celery_guardrails.store.record import LetterSummary, State
from celery_guardrails.transport.connection import opened

__all__ = ["REASON", "Left"]

REASON = "doctor --self-test"
"""The reason in the audit trail of everything that the self-test does."""


class Left:
    """What a self-test has left.

    Args:
        context: the application.
        queue: the canary's queue.
        task_id: the canary.

    Attributes:
        declared: whether the queue was declared.
        sent: whether the canary was published.
        letter: the canary's dead letter, once it is archived.
    """

    def __init__(self, context: Context, queue: str, task_id: str) -> None:
        self._context = context
        self._queue = queue
        self._task_id = task_id
        self.declared = self.sent = False
        self.letter: LetterSummary | None = None

    def clean_up(self) -> str:
        """Remove it, and return in words what stays. The canary's worker must have ended."""
        if not self.declared:
            return "there was nothing to clean up"
        self._stop_waiting()
        self._delete_queue()
        return f"the queue is deleted; {self._settle_letter()}"

    def _stop_waiting(self) -> None:
        waiting = self._context.guardrails.waiting
        try:
            waiting.remove([entry.id for entry in waiting.find(self._task_id)])
        except (Unlistable, PublishError):
            return  # then it goes to a queue that no longer exists

    def _delete_queue(self) -> None:
        app = self._context.app
        with opened(app) as connection, connection.channel() as channel:
            queue = app.amqp.queues[self._queue](channel)
            queue.purge()  # outside AMQP, kombu does not delete a queue that is bound to no exchange
            queue.delete()

    def _settle_letter(self) -> str:
        if self.letter is None and not self.sent:
            return "nothing was sent"
        if self.letter is None:
            return "if there is a dead letter, a guardian archives it later, and nobody is alerted"
        try:
            found = search.get(self._context.project.archive, self.letter.id)
            if found.summary.state is State.RECOVERED:
                return "one recovered letter, of the self-test's own task, stays in the archive"
            if found.summary.state is State.REQUEUED:
                return f"its dead letter {self.letter.id} stays requeued: its message was deleted with the queue"
            transition.discard(self._context.project.archive, self.letter.id, whoever_runs_this(), REASON, clock.now())
        except (DeadLetterError, StoreError) as exc:
            return f"its dead letter {self.letter.id} stays as it is: {exc}"
        return "its dead letter is discarded"
