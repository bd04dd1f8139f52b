"""The first steps of a guarded worker: it does not start with wrong settings, and its tasks get our tracer.

Owns when both happen. Celery loads these steps by name (`app/guardrails.py`).
"""
# on its own: Celery loads these steps by name, before any other module of this room

from __future__ import annotations

from typing import Any

import click
from celery import bootsteps

from celery_guardrails.app.caveat import log_caveats
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import ConfigurationError
from celery_guardrails.redaction import shown
from celery_guardrails.worker.child.tracer import retrace
from celery_guardrails.worker.main.exit_event import exit_events

__all__ = ["GuardStep", "TraceStep"]


class GuardStep(bootsteps.Step):  # type: ignore[misc]
    """Stops a worker whose policies or settings are wrong before it takes a message."""

    def __init__(self, worker: Any, **_: Any) -> None:
        try:
            Guardrails.of(worker.app).prepare()
        except ConfigurationError as exc:
            raise click.ClickException(f"celery-guardrails is not configured right.\n{shown(str(exc))}") from exc
        if Guardrails.of(worker.app).settings.enabled:
            exit_events.install()


class TraceStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Installs our tracer for pools that run tasks in the worker's own process, each time Celery has built its own."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Install the tracer, and log what guardrails cannot do here."""
        guard = Guardrails.of(consumer.app)
        retrace(guard, consumer.hostname)
        log_caveats(guard)
