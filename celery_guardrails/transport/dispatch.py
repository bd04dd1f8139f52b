"""Publishing what a failed attempt sends: to the broker, else into the spool, else an error.

    confirmed publish ── else ──> spool file, fsynced ── else ──> PublishError: the message is not acknowledged

Owns that order. Publishing, waiting and spooling have modules of their own; `shipping.py` publishes what was spooled.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from kombu import Queue

from celery_guardrails.errors import PublishError, SpoolError
from celery_guardrails.letters.record import Letter
from celery_guardrails.letters.recovery import Recovery
from celery_guardrails.transport.dead_letter import DeadLetterSender
from celery_guardrails.transport.publisher import Envelope, Publisher
from celery_guardrails.transport.right import is_without_right
from celery_guardrails.transport.spool import Spool
from celery_guardrails.transport.spooled import Spooled
from celery_guardrails.transport.waiting.protocol import Waiting

__all__ = ["Dispatch"]

logger = logging.getLogger("celery_guardrails.transport")


class Dispatch:
    """The way out of a failed attempt.

    Args:
        publisher: publishes what is to run at once.
        waiting: keeps what is to run later.
        dead_letters: publishes dead letters.
        spool: takes what the broker does not.
    """

    def __init__(self, publisher: Publisher, waiting: Waiting, dead_letters: DeadLetterSender, spool: Spool) -> None:
        self._publisher = publisher
        self._waiting = waiting
        self._dead_letters = dead_letters
        self._spool = spool

    def run(self, envelope: Envelope, declare: Sequence[Queue], delay: float, now: datetime, what: str) -> None:
        """Have a message run `delay` seconds after `now` (0: at once).

        Args:
            envelope: the message. The caller has set its `eta` header.
            declare: queues to declare first.
            delay: seconds.
            now: this instant.
            what: the message in words, for the log and the spool. Without arguments: they may be secrets.

        Raises:
            PublishError: neither the broker nor the spool took the message. Or the broker refuses it (`.refused`), and
                not only for a missing right, which somebody may still give. Or the broker did not confirm a message
                that must not be published twice (`.unsure`). A refused or unsure message is not spooled: the caller
                makes a dead letter of it, for people to see.
        """
        try:
            if delay > 0:
                self._waiting.publish(envelope, declare, delay)
            else:
                self._publisher.publish(envelope, declare)
        except Exception as exc:
            lost = _lost(exc, envelope)
            if lost.unsure or (lost.refused and not is_without_right(lost)):
                raise lost from exc
            due_at = now + timedelta(seconds=delay) if delay > 0 else None
            self._keep(Spooled(envelope, tuple(queue.name for queue in declare), due_at, what, now), lost)

    def publish_letter(self, letter: Letter, queue: str | None, now: datetime) -> None:
        """Send a dead letter to its queue: the task's own when given, else the application's.

        Raises:
            PublishError: neither the broker nor the spool took it.
        """
        envelope, declare = self._dead_letters.addressed(letter, queue)
        try:
            self._publisher.publish(envelope, declare)
        except Exception as exc:  # noqa: BLE001 whatever it is, the letter is kept
            what = f"dead letter of {letter.task}[{letter.task_id}]"
            self._keep(Spooled(envelope, (), None, what, now, letter=True), _lost(exc, envelope))

    def report_recovered(self, recovery: Recovery, now: datetime) -> None:
        """Report that requeued work has succeeded.

        Raises:
            PublishError: neither the broker nor the spool took it.
        """
        envelope, declare = self._dead_letters.recovery(recovery)
        try:
            self._publisher.publish(envelope, declare)
        except Exception as exc:  # noqa: BLE001 whatever it is, the report is kept
            what = f"the recovery of dead letter {recovery.dead_letter_id}"
            self._keep(Spooled(envelope, (), None, what, now, letter=True), _lost(exc, envelope))

    def _keep(self, entry: Spooled, lost: PublishError) -> None:
        try:
            path = self._spool.put(entry)
        except SpoolError as full:
            raise PublishError(lost.queue, f"{lost.reason}; and {full}") from lost
        logger.warning("%s is spooled to %s: %s", entry.what, path, lost)


def _lost(exc: Exception, envelope: Envelope) -> PublishError:
    """The error as a `PublishError`: an error of another kind, from a library for example, must lose no message."""
    if isinstance(exc, PublishError):
        return exc
    # A text that cannot be encoded now cannot be encoded later either: a person has to see it.
    odd = isinstance(exc, UnicodeError)
    return PublishError(envelope.routing_key, f"{type(exc).__name__}: {exc}", refused=odd)
