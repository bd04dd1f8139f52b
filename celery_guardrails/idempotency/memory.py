"""A ledger in this process's memory: for tests of applications, and for tasks that run eagerly.

It knows nothing of other processes, and its entries end with this one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from celery_guardrails import clock
from celery_guardrails.idempotency.ledger import (
    REMEMBERED,
    Answer,
    Begun,
    Entry,
    Key,
    Line,
    Result,
    Run,
    State,
    refusal,
)

__all__ = ["MemoryLedger"]


@dataclass(slots=True)
class _Line:
    key: Key
    run: Run
    arguments: str
    fence: int
    state: State
    began_at: datetime
    until: datetime
    done_at: datetime | None = None
    result: Result = field(default_factory=Result)

    def decisive(self, now: datetime) -> Line:
        """What decides who may begin."""
        left, run = (self.until - now).total_seconds(), self.run
        return Line(
            self.state, run.work, run.turn, run.owner, self.arguments, run.task_id, left, self.done_at, self.result
        )


class MemoryLedger:
    """A ledger for one process.

    Args:
        now: the clock. Default the process's.
    """

    name = "memory"

    def __init__(self, now: Callable[[], datetime] = clock.now) -> None:
        self.now = now
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()

    def begin(self, key: Key, run: Run, arguments: str, lease: timedelta) -> Answer:
        """As the protocol says."""
        with self._lock:
            now = self.now()
            line = self._lines.get(key.digest)
            if line is not None and (answer := refusal(line.decisive(now), run, arguments)) is not None:
                return answer
            fence = 1 if line is None else line.fence + 1
            self._lines[key.digest] = _Line(key, run, arguments, fence, State.RUNNING, now, now + lease)
            return Begun(fence)

    def renew(self, owners: Collection[str], lease: timedelta) -> set[str]:
        """As the protocol says."""
        with self._lock:
            found = [line for line in self._running() if line.run.owner in owners]
            for line in found:
                line.until = self.now() + lease
            return {line.run.owner for line in found}

    def hold(self, owner: str, seconds: float) -> bool:
        """As the protocol says."""
        return bool(self.renew([owner], timedelta(seconds=seconds)))

    def finish(self, key: Key, owner: str, result: Result, ttl: timedelta) -> bool:
        """As the protocol says."""
        with self._lock:
            line = self._lines.get(key.digest)
            if line is None or line.run.owner != owner or line.state is State.FREE:
                return False
            now = self.now()
            line.state, line.result, line.until = State.DONE, result, now + ttl
            line.done_at = line.done_at or now
            return True

    def free(self, owner: str) -> bool:
        """As the protocol says."""
        with self._lock:
            found = [line for line in self._running() if line.run.owner == owner]
            for line in found:
                line.state, line.until = State.FREE, self.now()
            return bool(found)

    def entry(self, key: Key) -> Entry | None:
        """As the protocol says."""
        with self._lock:
            line = self._lines.get(key.digest)
            if line is None:
                return None
            return Entry(
                line.key.scope, line.key.text, line.state, line.fence, line.run.task, line.run.task_id, line.began_at,
                line.until, line.done_at, replace(line.result),
            )  # fmt: skip

    def find(self, environment: str, text: str, scope: str | None = None, most: int = 20) -> list[Key]:
        """As the protocol says."""
        with self._lock:
            keys = [line.key for line in self._lines.values()]
        wanted = (environment, text)
        return [key for key in keys if (key.environment, key.text) == wanted and scope in (None, key.scope)][:most]

    def forget(self, key: Key, fence: int | None = None) -> bool:
        """As the protocol says."""
        with self._lock:
            line = self._lines.get(key.digest)
            if line is None or fence not in (None, line.fence):
                return False
            del self._lines[key.digest]
            return True

    def prune(self, most: int = 1000) -> int:
        """As the protocol says."""
        with self._lock:
            now = self.now()
            past = [
                name
                for name, line in self._lines.items()
                if line.until <= (now if line.state is State.DONE else now - REMEMBERED)
            ]
            for name in past[:most]:
                del self._lines[name]
            return len(past[:most])

    def close(self) -> None:
        """As the protocol says."""

    def _running(self) -> list[_Line]:
        return [line for line in self._lines.values() if line.state is State.RUNNING]
