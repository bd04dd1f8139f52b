"""The sink that is always there: one log record an alert, on the logger `celery_guardrails.alerts` at WARNING.

Not at ERROR, because Sentry's logging integration turns ERROR records into events of their own.
"""

from __future__ import annotations

import logging
from datetime import datetime

from celery_guardrails.alerts.sinks.sink import Message, Posted
from celery_guardrails.errors import Trouble, Undelivered
from celery_guardrails.log import Lines

__all__ = ["LOGGER_NAME", "LogSink"]

LOGGER_NAME = "celery_guardrails.alerts"


class LogSink:
    """Write alerts to the log, whole, as plain text. It cannot edit: growth is logged anew, as on a webhook."""

    name = "log"
    can_edit = False
    can_find = False
    min_gap = 0.0

    def __init__(self) -> None:
        self._logger = logging.getLogger(LOGGER_NAME)

    def post(self, message: Message, *, channel: str | None = None) -> Posted:
        """Log the alert in one record."""
        self._logger.warning("%s", Lines(message.plain))
        return Posted(ts=message.post_uid, channel=self.name)

    def edit(self, posted: Posted, message: Message) -> None:
        """A log record cannot be changed."""
        raise Undelivered(Trouble.REFUSED, "the log cannot be edited")

    def reply(self, posted: Posted, message: Message, *, broadcast: bool = False) -> Posted:
        """A log has no threads."""
        raise Undelivered(Trouble.REFUSED, "the log has no threads")

    def find(self, post_uid: str, *, since: datetime, channel: str | None = None, thread: str = "") -> Posted | None:
        """A log cannot be searched."""
        raise Undelivered(Trouble.REFUSED, "the log cannot be searched")

    def check(self) -> None:
        """Do nothing: a log always takes messages."""
