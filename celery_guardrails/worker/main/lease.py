"""The leases of work that takes effect once, as the worker's main process keeps them: renewed while a task runs, given
back when it is lost.

    a message of such work arrives ──> the thread starts
    every third of the shortest lease ──> one call to the ledger renews the leases of all that runs here
    an end that only this process sees (killed, too slow, revoked) ──> the key is free, or held for the next attempt

Owns the thread. The body may block for hours, in any pool: nothing here waits for it. A worker that dies renews
nothing, so its work may be begun again when the lease is over. The ledger is opened on the main thread, where processes
fork.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from celery.worker import state

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import LedgerError
from celery_guardrails.idempotency.ledger import Ledger
from celery_guardrails.worker.failure.once import idempotency_of

__all__ = ["Leases", "note_arrival", "note_end", "of"]

logger = logging.getLogger("celery_guardrails.worker")

_LONGEST_NAP = 20.0
_LAST = 2.0
"""Seconds that a worker that ends gives the ledger."""
_kept: WeakKeyDictionary[Guardrails, Leases] = WeakKeyDictionary()


class Leases:
    """The leases of one worker.

    Args:
        ledger: where they are.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ended: deque[tuple[str, float | None]] = deque()
        self._every = _LONGEST_NAP
        self._due = 0.0
        self._wake = threading.Event()
        self._stops = False
        self._is_away = False
        self._thread = threading.Thread(target=self._run, name="guardrails-leases", daemon=True)
        self._thread.start()

    def expect(self, seconds: float) -> None:
        """Renew often enough for a lease of so many seconds, from now on."""
        if seconds / 3 < self._every:
            self._every = seconds / 3
            self._due = min(self._due, time.monotonic() + self._every)
            self._wake.set()

    def end(self, owner: str, hold: float | None) -> None:
        """Give a lease back soon: the run has ended.

        Args:
            owner: the run.
            hold: seconds for which its key is kept for the next attempt; `None`: it is free.
        """
        self._ended.append((owner, hold))
        self._wake.set()

    def close(self) -> None:
        """Give back what has ended, within two seconds, and stop."""
        self._stops = True
        self._wake.set()
        self._thread.join(_LAST)

    def _run(self) -> None:
        while True:
            try:
                self._give_back()
                if time.monotonic() >= self._due:
                    self._due = time.monotonic() + self._every
                    self._renew()
                self._succeed()
            except LedgerError as exc:
                self._fail(exc)
                self._due = 0.0
            except Exception:
                logger.warning("the leases of this worker's tasks are not renewed now", exc_info=True)
            if self._stops and (not self._ended or self._is_away):
                return
            self._wake.wait(max(0.05, self._due - time.monotonic()))
            self._wake.clear()

    def _give_back(self) -> None:
        while self._ended:
            owner, hold = self._ended[0]
            if hold is None:
                self._ledger.free(owner)
            else:
                self._ledger.hold(owner, hold)
            self._ended.popleft()

    def _renew(self) -> None:
        by_lease: dict[Any, list[str]] = {}
        for request in _running():
            by_lease.setdefault(idempotency_of(request.task).lease, []).append(request.run_owner)
        for lease, owners in by_lease.items():
            self._ledger.renew(owners, lease)

    def _fail(self, exc: LedgerError) -> None:
        if not self._is_away:
            logger.warning("the leases of this worker's tasks are not renewed now: %s", exc)
        self._is_away = True
        if not self._stops:
            time.sleep(0.5)

    def _succeed(self) -> None:
        if self._is_away:
            logger.warning("the leases of this worker's tasks are renewed again")
        self._is_away = False


def of(guard: Guardrails) -> Leases | None:
    """The leases of the application's worker in this process; `None`: no message needed one yet."""
    return _kept.get(guard)


def note_arrival(request: Any) -> None:
    """Called on the main thread for each message of work that takes effect once; never raises."""
    try:
        guard = Guardrails.of(request.task.app)
        if guard not in _kept:
            _kept[guard] = Leases(guard.ledger())
        _kept[guard].expect(idempotency_of(request.task).lease.total_seconds())
    except LedgerError as exc:
        _complain(str(exc))
    except Exception:
        logger.warning("the leases of this worker's tasks are not renewed", exc_info=True)


@cache
def _complain(exc_text: str) -> None:
    """Log once for each trouble: every message that arrives may have it."""
    logger.warning("the leases of this worker's tasks are not renewed: %s", exc_text)


def note_end(request: Any, *, goes_on: bool) -> None:
    """Give back the lease of a request whose end only this process sees.

    Args:
        request: the worker's request.
        goes_on: whether its next attempt is published: then its key is kept for it.
    """
    leases = of(Guardrails.of(request.task.app)) if request.run_owner is not None else None
    if leases is not None:
        leases.end(request.run_owner, idempotency_of(request.task).ttl.total_seconds() if goes_on else None)


def _running() -> list[Any]:
    """The requests of this worker whose tasks run, and whose work takes effect once."""
    while True:
        try:
            here = list(state.active_requests)
        except RuntimeError:  # another thread has changed the set meanwhile
            continue
        return [request for request in here if getattr(request, "run_owner", None) is not None]
