"""Waiting until a message is due, outside any worker: one protocol, with one implementation for each transport.

Owns the types. `build.py` chooses the implementation for a broker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kombu import Queue

from celery_guardrails.transport.publisher import Envelope

__all__ = ["Waiting", "WaitingTask"]


@dataclass(frozen=True, slots=True)
class WaitingTask:
    """One message that waits: a retry, or a task that was sent with a `countdown` or `eta`.

    `id` names the entry (not the task), `attempt` is the number of the coming attempt, `envelope` the message as it
    will be published.
    """

    id: str
    task: str
    task_id: str
    queue: str
    due_at: datetime
    attempt: int
    envelope: Envelope


class Waiting(Protocol):
    """Where messages wait.

    Attributes:
        name: the way of waiting in words, for `check`, `doctor` and the log.
        outside: whether the messages wait outside the workers; `False` only if the broker offers no way.
        listed: whether `entries`, `find`, `run_now` and `remove` work here.
        released: whether workers and guardians have to call `release_due` regularly: each does so every 0.25 to 1 s,
            from one thread of its own. `False` if the broker itself moves messages that are due.
    """

    name: str
    outside: bool
    listed: bool
    released: bool

    def publish(self, envelope: Envelope, declare: Sequence[Queue], delay: float) -> None:
        """Publish a message, confirmed, so that it reaches its queue `delay` seconds from now (> 0).

        Raises:
            PublishError: the broker did not confirm the message in time. `.refused` only if the broker answered that it
                will never take the message: the message is then dead-lettered, otherwise spooled and tried again.
        """

    def release_due(self, now: datetime, most: int = 1000) -> int:
        """Move messages that are due to their queues, at most `most`; returns how many. Safe from any process.

        Does nothing if the broker itself moves messages that are due.

        Raises:
            PublishError: the broker cannot be reached.
        """

    def count(self) -> int | None:
        """How many messages wait outside the workers; `None`: this broker does not say.

        Raises:
            PublishError: the broker cannot be reached.
        """

    def entries(self, limit: int, after: str | None = None) -> list[WaitingTask]:
        """Up to `limit` waiting messages behind the entry `after`, the next due first.

        Raises:
            PublishError: the broker cannot be reached.
            Unlistable: this broker cannot list waiting messages.
        """

    def find(self, id: str) -> list[WaitingTask]:
        """The waiting messages whose entry id or task id starts with `id`. Raises as `entries` does."""

    def run_now(self, ids: Sequence[str]) -> int:
        """Move these entries to their queues at once; returns how many still waited. Raises as `entries` does."""

    def remove(self, ids: Sequence[str]) -> int:
        """Remove these entries; returns how many still waited. Raises as `entries` does."""
