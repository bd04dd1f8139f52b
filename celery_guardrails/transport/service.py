"""Regular work for a broker, done by workers and guardians alike: ship the spool, release the messages that are due.

Owns how often this work runs. A broker that is away is asked less and less often, and the log says so once.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from celery_guardrails.errors import PublishError, SpoolError
from celery_guardrails.service import Patience
from celery_guardrails.transport.shipping import Shipper
from celery_guardrails.transport.waiting.protocol import Waiting

__all__ = ["SPOOL_FIX", "SpoolShipping", "WaitingRelease", "fix_of"]

logger = logging.getLogger("celery_guardrails.transport")

SPOOL_FIX = "Set dead_letter.spool_dir to a directory that this process may write to."
"""What to do about a spool that cannot be used."""

_AT_ONCE = timedelta(0)


def fix_of(exc: BaseException) -> str:
    """What to do about an error, as a sentence to put behind it; empty if it is not an error of the spool."""
    if not isinstance(exc, SpoolError):
        return ""
    return f" Type: {exc.fix}" if exc.fix else f" {SPOOL_FIX}"


class SpoolShipping:
    """Ships the spool: at once, then every 5 seconds while the spool holds entries.

    Args:
        shipper: knows the spool and the broker.
    """

    name = "spool"

    def __init__(self, shipper: Shipper) -> None:
        self._shipper = shipper
        self._patience = Patience()
        self._more = False

    @property
    def every(self) -> timedelta:
        """5 seconds; at once if the last pass left entries for the next pass."""
        return _AT_ONCE if self._more else timedelta(seconds=5)

    def run_once(self, now: datetime, flush: bool) -> int:
        """Ship what the broker takes; returns how many entries. `flush`: try all, even if earlier passes failed.

        Never raises: the error that stops it is logged, once.
        """
        self._more = False
        spool = self._shipper.spool
        if spool.is_empty() or not (flush or self._patience.allows(now)):
            return 0
        most = 1_000_000 if flush else 500
        try:
            shipped = self._shipper.ship(now, most)
        except Exception as exc:
            if self._patience.fail(now):
                # a `SpoolError` says all there is to say
                trace = not isinstance(exc, SpoolError)
                logger.warning("%s; the entries are shipped after this is fixed.%s", exc, fix_of(exc), exc_info=trace)
            return 0
        if shipped.count:
            logger.warning("%d shipped from the spool %s, %d left", shipped.count, spool.directory, shipped.left)
        if shipped.away is None:
            self._patience.succeed()
            self._more = shipped.count >= most and shipped.left > 0
        elif self._patience.fail(now):
            logger.warning("%d wait in the spool %s for the broker: %s", shipped.left, spool.directory, shipped.away)
        return shipped.count


class WaitingRelease:
    """Moves messages that are due to their queues: every second, or every quarter of a second while some are due.

    Args:
        waiting: where the messages wait. Only a `waiting` that is `released` needs this service.
    """

    name = "waiting"

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._patience = Patience()
        self._lively = 0

    @property
    def every(self) -> timedelta:
        """A second; a quarter of a second while messages fall due."""
        return timedelta(milliseconds=250 if self._lively else 1000)

    def run_once(self, now: datetime, flush: bool) -> int:
        """Move the messages, and return how many. Never raises: the error that stops it is logged, once."""
        if not self._patience.allows(now) and not flush:
            return 0
        self._lively = max(0, self._lively - 1)
        moved, most = 0, 1000
        try:
            for _ in range(10):
                count = self._waiting.release_due(now, most)
                moved += count
                if count < most:
                    break
        except Exception as exc:
            if self._patience.fail(now):
                # a `PublishError` says all there is to say
                trace = not isinstance(exc, PublishError)
                logger.warning(
                    "waiting tasks that are due cannot be moved to their queues yet: %s", exc, exc_info=trace
                )
        else:
            if self._patience.succeed():
                logger.warning("waiting tasks that are due are moved to their queues again")
        if moved:
            self._lively = 20
        return moved
