"""The sink that is always there: one log record an alert, on the logger `celery_guardrails.alerts` at WARNING.

Not at ERROR, because Sentry's logging integration turns ERROR records into events of their own.
"""

from __future__ import annotations

import logging

from celery_guardrails.alerts.sinks.plain import PostOnly
from celery_guardrails.alerts.sinks.sink import Message, Posted
from celery_guardrails.log import Lines

__all__ = ["LOGGER_NAME", "LogSink"]

LOGGER_NAME = "celery_guardrails.alerts"


class LogSink(PostOnly):
    """Write alerts to the log, whole, as plain text. It cannot edit: growth is logged anew, as on a webhook."""

    name = "log"
    min_gap = 0.0

    def __init__(self) -> None:
        self._logger = logging.getLogger(LOGGER_NAME)

    def post(self, message: Message, *, channel: str | None = None) -> Posted:
        """Log the alert in one record."""
        self._logger.warning("%s", Lines(message.plain))
        return Posted(ts=message.post_uid, channel=self.name)
