"""The worker's consumer: Celery's, or an application's own, with our methods over its methods.

Owns the methods. Each passes the call to the step that has set its attribute here; without that step, Celery's method
does the work alone. What a step does is in the step's module.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.utils.imports import symbol_by_name
from celery.worker import state

from celery_guardrails.worker.main.prefork import mixed
from celery_guardrails.worker.main.takeover import going_on

__all__ = ["GuardedConsumer", "guarded_consumer"]


class GuardedConsumer:
    """Our methods over a consumer class. Each of our steps sets its own attribute."""

    intake: Any = None
    """`intake.Intake`: messages that never become a task."""
    taking: Any = None
    """`redis.RedisStep`: connections to Redis."""
    binding: Any = None
    """`binding.BindingStep`: queues that are added at run time."""
    goes_on: bool = False
    """Whether tasks go on in the pool after a lost connection, and this Celery then gets their results."""

    connection_errors: tuple[type[Exception], ...]
    call_soon: Callable[..., Any]

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Called by Celery for a message that names no task."""
        celery = partial(super().on_unknown_message, body, message)  # type: ignore[misc]
        celery() if self.intake is None else self.intake.on_unknown_message(message, celery)

    def on_unknown_task(self, body: Any, message: Any, exc: Any) -> None:
        """Called by Celery for a message of a task that nobody has registered."""
        celery = partial(super().on_unknown_task, body, message, exc)  # type: ignore[misc]
        celery() if self.intake is None else self.intake.on_unknown_task(message, celery)

    def on_invalid_task(self, body: Any, message: Any, exc: Any) -> None:
        """Called by Celery for a message of which it cannot make a request."""
        celery = partial(super().on_invalid_task, body, message, exc)  # type: ignore[misc]
        celery() if self.intake is None else self.intake.on_invalid_task(message, exc, celery)

    def on_decode_error(self, message: Any, exc: Any) -> None:
        """Called by kombu for a message whose body it cannot decode."""
        celery = partial(super().on_decode_error, message, exc)  # type: ignore[misc]
        celery() if self.intake is None else self.intake.on_invalid_task(message, exc, celery)

    def create_task_handler(self, *args: Any, **options: Any) -> Any:
        """Called by Celery when it begins to consume; returns the function that it calls for each message."""
        handle = super().create_task_handler(*args, **options)  # type: ignore[misc]
        return handle if self.intake is None else self.intake.handler(handle)

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        """Called by Celery whenever it connects anew."""
        connect = partial(super().connection_for_read, heartbeat=heartbeat)  # type: ignore[misc]
        return connect() if self.taking is None else self.taking.connect_for_reading(connect)

    def ensure_connected(self, connection: Any) -> Any:
        """Called by Celery with a connection that is not open yet."""
        connect = partial(super().ensure_connected, connection)  # type: ignore[misc]
        return connect() if self.taking is None else self.taking.open(connection, connect)

    def add_task_queue(self, *args: Any, **options: Any) -> Any:
        """Called by Celery for a queue that somebody adds at run time."""
        add = partial(super().add_task_queue, *args, **options)  # type: ignore[misc]
        return add() if self.binding is None else self.binding.add_queue(add)

    def on_close(self) -> None:
        """Called by Celery when the connection is lost. Celery then forgets the tasks that its pool has not begun.

        A pool that cannot take tasks back runs them all the same; their requests are remembered.
        """
        given = going_on() if self.goes_on else []
        super().on_close()  # type: ignore[misc]
        for request in given:
            state.task_reserved(request)

    def _restore_prefetch_count_after_connection_restart(self, *args: Any) -> None:
        """Called by Celery when a task ends that has outlived its connection.

        Celery waits for an answer of the broker, which the main thread may read. In another thread both could then wait
        for ever. So the main thread, which reads the connection, makes the call.
        """
        celery = super()._restore_prefetch_count_after_connection_restart  # type: ignore[misc]
        if not self.goes_on or threading.current_thread() is threading.main_thread():
            celery(*args)
        else:
            self.call_soon(celery, *args)


def guarded_consumer(said: Any) -> Any:
    """The worker's consumer class with `GuardedConsumer` mixed in.

    Args:
        said: the class, or its dotted path (the setting `worker_consumer`).

    Raises:
        TypeError: it is not a class, or no class can be derived from it.
    """
    cls = symbol_by_name(said)
    if not isinstance(cls, type):
        raise TypeError(f"{said!r} is not a class")
    return cls if issubclass(cls, GuardedConsumer) else mixed(cls, {}, GuardedConsumer)
