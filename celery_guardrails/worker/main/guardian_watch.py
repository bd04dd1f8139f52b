"""Whether any guardian takes this worker's figures: without one, dead letters wait and nobody is alerted.

Owns how the backlog of the queue for figures says so, and the two lines that the worker logs. It must not know how the
backlog is asked for. For one thread.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from celery_guardrails.clock import shown
from celery_guardrails.command import celery_command
from celery_guardrails.errors import UNNAMED_APP
from celery_guardrails.transport.figures import MOST, Backlog

__all__ = ["PATIENCE", "GuardianWatch"]

logger = logging.getLogger("celery_guardrails.worker")

PATIENCE = timedelta(minutes=5)
"""How long nobody may take figures before the worker says so."""


class GuardianWatch:
    """Notes each backlog that the worker sees, and logs once that nobody takes figures, and once that somebody does.

    Args:
        queue: the name of the queue for figures.
    """

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._since: datetime | None = None
        self._base = self._sent = self._before = 0
        self._is_missing = False

    def look(self, backlog: Backlog | None, now: datetime) -> bool:
        """Note the backlog after one more message was sent.

        Args:
            backlog: `None`: the broker has not said.
            now: this instant. A clock that was set back begins the wait anew.

        Returns:
            Whether it is noticed now that nobody takes figures.
        """
        if backlog is None:
            return False
        self._sent += 1
        if self._since is None:
            self._begin(backlog, now)
            # the first message is this worker's own
            self._base, self._sent = backlog.messages - 1, 1
            return False
        is_read = self._is_read(backlog)
        self._before = backlog.messages
        if is_read:
            self._begin(backlog, now)
            self._end()
        elif now < self._since:
            self._since = now
        elif not self._is_missing and now - self._since >= PATIENCE:
            self._is_missing = True
            logger.warning(
                "no guardian has taken figures from %s for %s: dead letters wait in their queue, nobody is alerted. "
                "Run `%s` beside the workers; `guardrails doctor` says what else is wrong",
                self._queue, shown(now - self._since), celery_command(UNNAMED_APP, "guardian"),
            )  # fmt: skip
            return True
        return False

    def forget(self) -> None:
        """Begin anew: the broker was away, so nobody could take anything."""
        self._since = None

    def _begin(self, backlog: Backlog, now: datetime) -> None:
        self._since, self._base, self._sent, self._before = now, backlog.messages, 0, backlog.messages

    def _end(self) -> None:
        if self._is_missing:
            logger.info("a guardian takes figures from %s again", self._queue)
        self._is_missing = False

    def _is_read(self, backlog: Backlog) -> bool:
        """Whether somebody has taken messages since they were last counted."""
        if backlog.consumers is None:
            # without a reader there are all that this worker has sent, up to the bound
            return backlog.messages < min(self._base + self._sent, MOST)
        # RabbitMQ lets them expire one by one, so a few less say nothing; a guardian that has come and gone leaves few
        return backlog.consumers > 0 or backlog.messages <= 1 or 2 * backlog.messages <= self._before
