"""A worker leads RabbitMQ's delay levels to every queue that it consumes, each time that it connects.

Owns when: at start, at each reconnection, and when a queue is added at run time. A queue that was deleted and made
again has lost its binding, and what waits in the levels would go round there. It works with `enabled=False` too: what
waits from before must not be left behind. At start it also logs what the worker's user lacks.
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
    """Binds what is consumed to where the delay levels end, if there are levels; never keeps a worker from its work."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.binding, self._consumer = self, consumer
        self._guard = Guardrails.of(consumer.app)
        self._asks = self._guard.settings.enabled

    def added(self, add: Callable[[], Any]) -> Any:
        """Add a queue, as Celery does, and lead the levels to it."""
        before = {queue.name for queue in self._consumer.task_consumer.queues}
        done = add()
        _lead(self._consumer, [queue for queue in self._consumer.task_consumer.queues if queue.name not in before])
        return done

    def start(self, consumer: Any) -> None:
        """The queues are declared, and no message has come yet."""
        _lead(consumer, consumer.task_consumer.queues)
        if self._asks and consumer.connection.transport.driver_type == "amqp":
            self._asks = False
            _log_lacks(self._guard, consumer.connection)


def _log_lacks(guard: Guardrails, connection: Connection) -> None:
    try:
        needed = needed_topology(guard)
        lacking = lacks(connection, needed)
    except Exception:
        logger.warning("what this worker's user lacks on RabbitMQ could not be found out", exc_info=True)
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
        logger.warning("the delay levels could not be led to this worker's queues", exc_info=True)
        return
    for queue, exc in led.refused.items():
        logger.warning(
            "if the queue %s is made anew, nothing that waits in the delay levels reaches it, because this worker "
            "cannot bind it to them: %s", queue, refusal(exc),
        )  # fmt: skip
