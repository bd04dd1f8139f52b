"""Celery's strategy (from a message to a request) for `map`, `starmap` and `chunks`: a carrier replaces the task.

Owns that step, in the worker's main process. `task/carrier.py` says what a carrier is.
"""
# on its own: Celery finds it by the dotted path that a task names

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.worker.strategy import default

from celery_guardrails.app.carried import arguments_of, carried_name, carrier_in
from celery_guardrails.app.guardrails import Guardrails

__all__ = ["strategy"]


def strategy(task: Any, app: Celery, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Celery's strategy, with the carrier in place of the registered task.

    A carried task that this worker does not know is treated like an unknown task in its own message.
    """
    usual = default(task, app, consumer, **options)
    handlers: dict[Any, Callable[..., Any]] = {}

    def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **rest: Any) -> Any:
        payload = _payload(message) if body is None else body
        name = carried_name(task.name, *arguments_of(payload))
        if name and name not in app.tasks and Guardrails.of(app).settings.enabled:
            return consumer.on_unknown_task(None, message, KeyError(name))
        carrier = carrier_in(task, payload)
        if carrier is None:
            return usual(message, body, ack, reject, callbacks, **rest)
        if carrier not in handlers:
            handlers[carrier] = default(carrier, app, consumer, **options)
        return handlers[carrier](message, body, ack, reject, callbacks, **rest)

    return handle


def _payload(message: Any) -> Any:
    try:
        return message.payload  # decoded only once: Celery's own strategy uses it, too
    except Exception:  # noqa: BLE001 Celery finds the fault itself
        return None
