"""Celery's way from a message of `map`, `starmap` or `chunks` to a request, with the carrier in place of the task.

Owns that step, in the worker's main process. What a carrier is stands in `task/carrier.py`.
"""
# on its own: Celery finds it by its dotted name, which a task names

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.worker.strategy import default

from celery_guardrails.app.carried import arguments_of, carried_name, carrier_in
from celery_guardrails.app.guardrails import Guardrails

__all__ = ["strategy"]


def strategy(task: Any, app: Celery, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Celery's way from a message to a request, with the carrier in place of the registered task.

    A task that no worker knows is treated as in a message of its own.
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
        return message.payload  # decoded once: Celery's own strategy looks into it, too
    except Exception:  # noqa: BLE001 Celery finds out by itself
        return None
