"""What a worker does first: check that Celery has the private names that guardrails uses, and mix our classes in.

Owns the one warning about names that this release lacks, and the choice of the classes from which Celery makes its pool
and its consumer. `seams.py` lists the names; `prefork.py` and `consumer.py` have the classes.
"""
# on its own: Celery loads this step by name, before any other module of this room

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import click
from celery import bootsteps

from celery_guardrails import seams
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import ConfigurationError
from celery_guardrails.log import Lines
from celery_guardrails.seam import report
from celery_guardrails.worker.consumer.consumer import guarded_consumer
from celery_guardrails.worker.main.prefork import guarded_pool

__all__ = ["SeamStep"]

logger = logging.getLogger("celery_guardrails.worker")


class SeamStep(bootsteps.Step):  # type: ignore[misc]
    """Sets the worker's pool and consumer classes: Celery makes both only after it has built every step.

    Raises:
        click.ClickException: this Celery lacks a name without which no task can be guarded.
    """

    def __init__(self, worker: Any, **_: Any) -> None:
        missing = seams.missing(loaded=True)
        if vital := [each for each in missing if any(guard.vital for guard in each.seam.guards)]:
            raise click.ClickException(report(vital))
        if missing and _is_enabled(worker.app):
            logger.warning("%s", Lines(report(missing)))
        if seams.holds(seams.CLASSES):
            worker.consumer_cls = _mix(guarded_consumer, worker.consumer_cls, "consumer")
            worker.pool_cls = _mix(guarded_pool, worker.pool_cls, "pool")


def _is_enabled(app: Any) -> bool:
    try:
        return Guardrails.of(app).settings.enabled
    except ConfigurationError:
        return False  # the worker does not start: GuardStep says why


def _mix(mix: Callable[[Any], Any], said: Any, what: str) -> Any:
    try:
        return mix(said)
    except TypeError as exc:
        words = "the worker's %s class is not under guard: %s. Use a class from which another class can be derived"
        logger.warning(words, what, exc)
        return said
