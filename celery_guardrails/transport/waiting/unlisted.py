"""The common part of brokers that move waiting messages by themselves and cannot list them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from celery_guardrails.errors import Unlistable
from celery_guardrails.transport.waiting.protocol import WaitingTask

__all__ = ["Unlisted"]


class Unlisted:
    """The methods of `Waiting` that such a broker does not support; `name` is the implementation's."""

    name: str
    listed = False
    released = False

    def release_due(self, now: datetime, most: int = 1000) -> int:
        """Do nothing: the broker moves the messages."""
        return 0

    def count(self) -> int | None:
        """Not known."""
        return None

    def entries(self, limit: int, after: str | None = None) -> list[WaitingTask]:
        """Raises Unlistable."""
        raise Unlistable(self.name)

    def find(self, id: str) -> list[WaitingTask]:
        """Raises Unlistable."""
        raise Unlistable(self.name)

    def run_now(self, ids: Sequence[str]) -> int:
        """Raises Unlistable."""
        raise Unlistable(self.name)

    def remove(self, ids: Sequence[str]) -> int:
        """Raises Unlistable."""
        raise Unlistable(self.name)
