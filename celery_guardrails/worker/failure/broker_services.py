"""The services that an application's broker needs now and then, in every worker and every guardian.

Owns which services these are, and their connections. The caller decides when they run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial

from kombu import Queue

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.service import Service
from celery_guardrails.transport.dead_letter import declared_queue
from celery_guardrails.transport.publisher import Publisher
from celery_guardrails.transport.service import SpoolShipping, WaitingRelease
from celery_guardrails.transport.shipping import Shipper
from celery_guardrails.transport.spooled import Spooled
from celery_guardrails.transport.waiting.build import waiting_for
from celery_guardrails.worker.failure.lost import LostWork
from celery_guardrails.worker.failure.unsure import dead_letter_unsure

__all__ = ["BrokerServices"]

_ANSWER = timedelta(seconds=2)
"""How long one publish may take here: nobody waits for it, and a failed publish is tried again."""


class BrokerServices:
    """The services that an application's broker needs now and then, with connections of their own.

    Args:
        guard: the application's guardrails.

    Attributes:
        services: ship the spool; release waiting messages that are due, where the broker does not do it itself; make
            letters of the work that dead workers left.
    """

    def __init__(self, guard: Guardrails) -> None:
        self._publisher = Publisher(guard.app, _ANSWER)
        self._waiting = waiting_for(guard.app, self._publisher)
        shipper = Shipper(
            guard.spool, self._publisher, self._waiting, _queues_of(guard), partial(dead_letter_unsure, guard)
        )
        self.services: list[Service] = [SpoolShipping(shipper)]
        if self._waiting.released:
            self.services.append(WaitingRelease(self._waiting))
        self.services.append(LostWork(guard))

    def close(self) -> None:
        """Close the connections; never raises."""
        for line in (self._publisher, self._waiting):
            close: Callable[[], None] = getattr(line, "close", _nothing)  # only some ways to wait have a connection
            with suppress(Exception):
                close()


def _nothing() -> None:
    """Closes a way to wait that has no connection."""


def _queues_of(guard: Guardrails) -> Callable[[Spooled], list[Queue]]:
    arguments = guard.settings.dead_letter.queue_arguments

    def queues(entry: Spooled) -> list[Queue]:
        if entry.letter:
            return [declared_queue(entry.envelope.routing_key, arguments)]
        known = guard.app.amqp.queues
        return [known[name] for name in entry.declare if name in known]

    return queues
