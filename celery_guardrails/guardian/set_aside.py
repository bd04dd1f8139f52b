"""Logs the reports that the guardian does not believe: each kind once for each letter.

Owns the words, and the memory of what was logged. `store/` decides what to believe.
"""
# on its own: it has a memory, which `ingest.py` does not share

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable

from celery_guardrails.store.claim import Doubt
from celery_guardrails.store.record import SetAside

__all__ = ["SetAsideLog"]

logger = logging.getLogger("celery_guardrails.guardian")

_MOST = 1_000
_OLDER = (
    "; a worker of an older version may have sent it: update the worker, see whether the work is done, and decide "
    'what becomes of the letter: guardrails dlq restore {} --reason "..."'
)


class SetAsideLog:
    """Logs reports that are set aside; remembers the latest 1,000, so that many of them do not fill the log."""

    def __init__(self) -> None:
        self._said: OrderedDict[tuple[str, str, bool], None] = OrderedDict()

    def log(self, found: Iterable[SetAside | None]) -> None:
        """Log those that were not logged yet."""
        for one in found:
            if one is None:
                continue
            key = (one.claimed_id, one.doubt, one.kept_as is None)
            if key in self._said:
                continue
            self._said[key] = None
            if len(self._said) > _MOST:
                self._said.popitem(last=False)
            if one.kept_as is None:
                hint = _OLDER.format(one.claimed_id) if one.doubt == str(Doubt.NO_TOKEN) else ""
                logger.warning(
                    "a report that letter %s has recovered is set aside: %s%s", one.claimed_id, one.doubt, hint
                )
            else:
                logger.warning(
                    "a further death of letter %s is set aside, and kept as its own letter %s: %s",
                    one.claimed_id, one.kept_as, one.doubt,
                )  # fmt: skip
