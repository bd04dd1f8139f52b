"""What the log says of reports that the guardian does not believe: each kind once for each letter.

Owns the words and the memory. What is believed is decided in `store/`.
"""
# on its own: it has a memory of its own, which the loop in ingest.py does not share

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
    "; a worker of an older version may have sent it: update it, see whether the work is done, and decide on the "
    'letter: guardrails dlq restore {} --reason "..."'
)


class SetAsideLog:
    """Logs reports that are set aside; remembers the latest 1,000, so that whoever sends many fills no log."""

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
                    "a further death of letter %s is set aside, and kept as letter %s of its own: %s",
                    one.claimed_id, one.kept_as, one.doubt,
                )  # fmt: skip
