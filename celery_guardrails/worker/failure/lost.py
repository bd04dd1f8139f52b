"""Letters for the work in journals: of dead workers' work, and those that neither broker nor spool took before.

Owns the letter of a message whose worker died, built as that worker would have built it, and the service that looks
for such messages. It runs in every worker and every guardian, at the start and every 5 seconds. Where there is no such
message, it reads one directory.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.app.task import Context
from kombu.serialization import loads, prepare_accept_content

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.in_force import is_guarded
from celery_guardrails.errors import PublishError, SpoolError
from celery_guardrails.letters.record import Letter
from celery_guardrails.policy.decision import DeadLetter, Reason
from celery_guardrails.service import Patience
from celery_guardrails.text import count_of
from celery_guardrails.transport.journal.abandoned import Abandoned, Left
from celery_guardrails.transport.journal.entry import State, Taken
from celery_guardrails.worker.failure.failed_run import STARTED, examine
from celery_guardrails.worker.failure.letter import brief_letter, capture
from celery_guardrails.worker.failure.original import ORIGINAL, Original
from celery_guardrails.worker.failure.outcome import publish_letter
from celery_guardrails.worker.failure.succeeded import has_succeeded
from celery_guardrails.worker.failure.tracing import FailureSpan

__all__ = ["LostWork", "lost_letter"]

logger = logging.getLogger("celery_guardrails.worker")

_TEXTS = {
    State.ACKNOWLEDGED: "the worker died while it ran the task, or just before. The task runs at most once (acks "
    "early): it may have run already, wholly or in part",
    State.WRITTEN: "the worker died just before the task began. It is not known whether the broker took the "
    "acknowledgement (acks early): the task may have run already, and the broker may deliver it again",
}
_ANSWER = 2.0
"""Seconds in which Redis must answer whether it still has a message."""


class LostWork:
    """Dead-letters the work that dead workers left in their journals: at once, then every 5 seconds.

    Args:
        guard: the application's guardrails.
    """

    name = "journal"
    every = timedelta(seconds=5)

    def __init__(self, guard: Guardrails) -> None:
        self._guard = guard
        self._patience = Patience()

    def run_once(self, now: datetime, flush: bool) -> int:
        """Publish the letters that are due; returns how many the broker or the spool took.

        Never raises: an error is logged, once for errors in a row.

        Args:
            now: this instant.
            flush: also try during the pause that follows an error.
        """
        self._guard.journal.beat()
        if not (flush or self._patience.allows(now)):
            return 0
        made = 0
        try:
            made += self._send_unkept(now)
            for abandoned in self._guard.journals.abandoned():
                made += self._empty(abandoned, now)
        except Exception as exc:
            if self._patience.fail(now):
                # the texts of these errors say everything
                trace = not isinstance(exc, (SpoolError, PublishError))
                fix = f" Type: {exc.fix}" if isinstance(exc, SpoolError) and exc.fix else ""
                words = "the lost work in the journal stays there and is tried again: %s.%s"
                logger.warning(words, exc, fix, exc_info=trace)
        else:
            self._patience.succeed()
        return made

    def _send_unkept(self, now: datetime) -> int:
        """Publish the letters that neither broker nor spool took when their tasks ended here."""
        unkept, made = self._guard.unkept, 0
        while unkept:
            slot, letter, queue = unkept[0]
            self._guard.dispatch.publish_letter(letter, queue, now)
            self._guard.counters.note_dead(letter.id, letter.task)  # its attempt was counted when it ended
            unkept.popleft()
            slot.done()
            made += 1
        return made

    def _empty(self, abandoned: Abandoned, now: datetime) -> int:
        made = 0
        for left in abandoned.entries():
            made += self._dead_letter(left, now)
            left.done()
        abandoned.remove()
        if made:
            owner = abandoned.owner
            what = count_of(made, "task that was", "tasks that were")
            logger.warning("dead-lettered %s lost with worker %s (pid %d)", what, owner.worker, owner.pid)
        return made

    def _dead_letter(self, left: Left, now: datetime) -> bool:
        """Publish the letter of one entry; returns whether it has one: not if it succeeded or its broker has it."""
        taken = left.taken
        name = f"{taken.headers.get('task')}[{taken.headers.get('id')}]"
        if left.state is State.WRITTEN and _is_with_redis(self._guard, taken):
            logger.warning("%s had not begun when its worker died: its broker delivers it again", name)
            return False
        context, chord = _context(self._guard, taken)
        if _has_succeeded(self._guard, context, chord):
            logger.warning("%s had succeeded before its worker died", name)
            return False
        with FailureSpan(Reason.WORKER_LOST.value, taken.headers) as span:
            letter, queue = lost_letter(self._guard, context, left.state)
            span.explain(letter.failure.type, letter.failure.message)
            publish_letter(self._guard, letter, queue, now)
        return True


def lost_letter(guard: Guardrails, context: Any, state: State) -> tuple[Letter, str | None]:
    """The letter of a message whose worker died, and its dead-letter queue; `None`: the application's.

    Args:
        guard: the application's guardrails.
        context: the task's request, as the dead worker had it.
        state: what the worker had done with the message.
    """
    exc = WorkerLostError("the whole worker died while it ran the task")
    decision = DeadLetter(Reason.WORKER_LOST, _TEXTS[state], in_doubt=state is State.WRITTEN)
    task = guard.app.tasks.get(context.task)
    try:
        if task is not None and is_guarded(task):
            run = examine(task, context, exc)
            return capture(run, decision), run.policy.dead_letter_queue
    except Exception:
        logger.warning("guardrails failed on %s[%s], whose worker died", context.task, context.id, exc_info=True)
    unknown = SimpleNamespace(name=str(context.task), app=guard.app, acks_late=False)
    return brief_letter(unknown, context, Original(*context.properties[ORIGINAL]), exc, decision), None


def _context(guard: Guardrails, taken: Taken) -> tuple[Any, Any]:
    """The request of a task as its worker had it, and its chord."""
    headers = dict(taken.headers)
    args, kwargs, embed = _payload(guard, taken)
    original = (taken.body, taken.content_type, taken.content_encoding, headers, taken.arrival)
    request = {
        **headers,
        "args": args,
        "kwargs": kwargs,
        "properties": {**taken.properties, ORIGINAL: original},
        "delivery_info": dict(taken.delivery),
        "hostname": taken.worker,
        "reply_to": taken.properties.get("reply_to"),
        "correlation_id": taken.properties.get("correlation_id"),
        STARTED: taken.at.timestamp(),
    }
    return Context(request), embed.get("chord")


def _payload(guard: Guardrails, taken: Taken) -> tuple[Any, Any, Mapping[str, Any]]:
    """The arguments, with callbacks and chord. Empty where they cannot be decoded: they only explain."""
    accept = prepare_accept_content(guard.app.conf.accept_content)
    try:
        args, kwargs, embed = loads(taken.body, taken.content_type, taken.content_encoding, accept=accept)
        return tuple(args), dict(kwargs), dict(embed or {})
    except Exception as exc:  # noqa: BLE001 the letter keeps the bytes
        logger.warning("no preview of the arguments of %s: %s", taken.headers.get("id"), exc)
        return (), {}, {}


def _has_succeeded(guard: Guardrails, context: Any, chord: Any) -> bool:
    task = guard.app.tasks.get(context.task)
    if task is None:
        return False
    ignored = task.ignore_result if context.ignore_result is None else context.ignore_result
    request = SimpleNamespace(
        task=task, id=context.id, chord=chord, request_dict=context.__dict__, ignore_result=ignored
    )
    return has_succeeded(request)


def _is_with_redis(guard: Guardrails, taken: Taken) -> bool:
    """Whether a message is still unacknowledged on Redis, which will deliver it again.

    Raises:
        Exception: Redis does not answer.
    """
    with guard.app.connection_for_read() as connection:
        if connection.transport.driver_type != "redis":
            return False
    from celery_guardrails.transport.redis.connection import Line
    from celery_guardrails.transport.redis.restore import is_unacknowledged

    line = Line(guard.app, _ANSWER, read=True)
    try:
        return line.once(lambda channel, client: is_unacknowledged(channel, client, taken.tag))
    finally:
        line.close()
