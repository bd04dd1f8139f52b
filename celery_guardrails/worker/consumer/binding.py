"""Binding every queue that a worker consumes to RabbitMQ's delay levels, each time that the worker connects.

Owns when: at start, at each reconnection, and when a queue is added at run time. A queue that was deleted and made
again has lost its binding, and messages that wait for it would go round in the levels. It works with `enabled: False`
too: messages that wait from before must not be left behind. At start it also logs what is missing on RabbitMQ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from celery import bootsteps
from kombu import Connection, Queue

from celery_guardrails.app.command_name import typed_name
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.topology import needed_topology
from celery_guardrails.log import Lines
from celery_guardrails.printable import one_line
from celery_guardrails.transport.lack import lacks
from celery_guardrails.transport.right import refusal
from celery_guardrails.transport.waiting.level import are_there, lead

__all__ = ["BindingStep"]

logger = logging.getLogger("celery_guardrails.worker")


class BindingStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Binds the consumed queues to the end of the delay levels, if there are levels. An error is logged, not raised."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.binding, self._consumer = self, consumer
        self._guard = Guardrails.of(consumer.app)
        self._asks = self._guard.settings.enabled

    def add_queue(self, add: Callable[[], Any]) -> Any:
        """Add a queue, as Celery does, and bind it to the levels."""
        before = {queue.name for queue in self._consumer.task_consumer.queues}
        done = add()
        _lead(self._consumer, [queue for queue in self._consumer.task_consumer.queues if queue.name not in before])
        return done

    def start(self, consumer: Any) -> None:
        """Bind the queues. Called when they are declared, and before the first message."""
        _lead(consumer, consumer.task_consumer.queues)
        if self._asks and consumer.connection.transport.driver_type == "amqp":
            self._asks = False
            _log_lacks(self._guard, consumer.connection)


def _log_lacks(guard: Guardrails, connection: Connection) -> None:
    try:
        needed = needed_topology(guard)
        lacking = lacks(connection, needed)
    except Exception:
        logger.warning("this worker could not find out what is missing for it on RabbitMQ", exc_info=True)
        return
    if lacking:
        logger.warning(
            "%s\nHave it declared (`celery -A %s guardrails topology` lists all), then: %s",
            Lines("\n".join(one_line(str(lack)) for lack in lacking)), typed_name(guard.app),
            needed.rights.command(str(connection.virtual_host or "/"), str(connection.userid)),
        )  # fmt: skip


def _lead(consumer: Any, queues: Iterable[Queue]) -> None:
    connection = consumer.connection
    try:
        if connection.transport.driver_type != "amqp" or not are_there(connection):
            return
        led = lead(consumer.app, connection, queues)
    except Exception:
        logger.warning("this worker's queues could not be bound to the delay levels", exc_info=True)
        return
    for queue, exc in led.refused.items():
        logger.warning(
            "this worker cannot bind the queue %s to the delay levels. If somebody deletes the queue and makes it "
            "again, messages that wait in the levels do not reach it: %s", queue, refusal(exc),
        )  # fmt: skip
