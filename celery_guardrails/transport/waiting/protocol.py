"""What it means for a message to wait until it is due, outside any worker: one protocol, an implementation a transport.

Owns the types. Which implementation a broker gets is in `build.py`.
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

    `id` names the entry (not the task), `attempt` is the number of the attempt that is to come, `envelope` the
    message as it will be published.
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
        name: in words, for `check`, `doctor` and the log.
        outside: whether they wait outside the workers; `False` only where the broker offers no way.
        listed: whether `entries`, `run_now` and `remove` work here.
        released: whether somebody has to call `release_due`, again and again: workers and guardians then do so every
            0.25 to 1 s, each from one thread of its own; `False` where the broker moves what is due by itself.
    """

    name: str
    outside: bool
    listed: bool
    released: bool

    def publish(self, envelope: Envelope, declare: Sequence[Queue], delay: float) -> None:
        """Hand a message to the broker, confirmed, so that it reaches its queue `delay` seconds from now (> 0).

        Raises:
            PublishError: the broker did not confirm it in time. `.refused` only where it answered and will never
                take this message: then it is dead-lettered, else it is spooled and tried again.
        """

    def release_due(self, now: datetime, most: int = 1000) -> int:
        """Move messages that are due to their queues, at most so many; returns how many. Safe from any process.

        Where the broker does so by itself this does nothing.

        Raises:
            PublishError: the broker cannot be reached.
        """

    def entries(self, limit: int, after: str | None = None) -> list[WaitingTask]:
        """Up to `limit` waiting messages, the next due first, those after the entry `after`.

        Raises:
            PublishError: the broker cannot be reached.
            Unlistable: this broker cannot list what waits.
        """

    def find(self, id: str) -> list[WaitingTask]:
        """The waiting messages whose entry id or task id starts with `id`. Raises as `entries` does."""

    def run_now(self, ids: Sequence[str]) -> int:
        """Move these entries to their queues at once; returns how many still waited. Raises as `entries` does."""

    def remove(self, ids: Sequence[str]) -> int:
        """Take these entries away; returns how many still waited. Raises as `entries` does."""
