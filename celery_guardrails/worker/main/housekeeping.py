"""What a worker does besides tasks: one thread of its main process ships the spool, releases what is due, and looks
for what dead workers left.

Owns that thread. It has broker connections of its own and never touches the event loop; it starts after the pool, so
that no child is forked while it holds a lock, and ends with the worker. What it does is in `transport/service.py`.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from celery import bootsteps

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import SpoolError
from celery_guardrails.service import Runner
from celery_guardrails.transport.service import SPOOL_FIX, fix_of
from celery_guardrails.transport.spool import Spool
from celery_guardrails.worker.failure.broker_services import BrokerServices

__all__ = ["Housekeeping", "HousekeepingThread", "purge_waiting"]

logger = logging.getLogger("celery_guardrails.worker")

_SHORTEST_NAP, _LONGEST_NAP = 0.01, 5.0
_PAGE = 500
"""Waiting messages that a purge reads at once."""


class Housekeeping(bootsteps.StartStopStep):  # type: ignore[misc]
    """The worker's step: starts the thread when the pool is there, and ends it.

    It runs with `enabled=False` too: what was spooled or waits from before must not be left behind.
    """

    label = "Housekeeping"
    requires = ("celery.worker.components:Pool", "celery_guardrails.worker.main.steps:GuardStep")

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        self.obj: HousekeepingThread | None = None
        super().__init__(worker, **kwargs)

    def create(self, worker: Any) -> HousekeepingThread | None:
        """Make the thread; what children need too is made before they are forked."""
        try:
            guard = Guardrails.of(worker.app)
            logger.debug("the spool is %s, retries wait by %s", guard.spool.directory, guard.waiting.name)
            _see_spool(guard.spool)
            self._open_journal(guard, worker.hostname)
            return HousekeepingThread(BrokerServices(guard))
        except Exception:
            logger.warning("this worker ships no spool and releases nothing that waits", exc_info=True)
            return None

    def start(self, worker: Any) -> None:
        """Begin; where the worker was started with `--purge`, which empties its queues, with what waits for them."""
        if getattr(worker, "purge", False):
            purge_waiting(Guardrails.of(worker.app))
        super().start(worker)

    def stop(self, worker: Any) -> None:
        """End the thread; what it was publishing stays in the spool if it does not end at once."""
        if self.obj is not None:
            self.obj.end()
            Guardrails.of(worker.app).journal.close()

    def terminate(self, worker: Any) -> None:
        """The same."""
        self.stop(worker)

    def _open_journal(self, guard: Guardrails, worker: str) -> None:
        """Before the pool forks: its children hold the journal's lock with the worker, as long as they run."""
        if not guard.settings.enabled or not guard.settings.dead_letter.journal:
            return
        if not all(task.acks_late for task in guard.guarded_tasks()):
            try:
                guard.journal.open(worker)
            except SpoolError as exc:
                logger.warning("%s: tasks that run at most once do not begin until it can be written", exc)


class HousekeepingThread(threading.Thread):
    """Runs services by turns until it is told to end.

    Args:
        broker: the services; their connections are closed at the end.
    """

    def __init__(self, broker: BrokerServices) -> None:
        super().__init__(name="guardrails-housekeeping", daemon=True)
        self._broker = broker
        self._ended = threading.Event()
        self._runner = Runner(broker.services, logger, "housekeeping (%s)")

    def run(self) -> None:
        """Work; never raises."""
        try:
            while not self._ended.is_set():
                self._runner.serve(clock.now, self._ended.is_set)
                self._ended.wait(self._runner.idle(clock.now(), _SHORTEST_NAP, _LONGEST_NAP))
        finally:
            self._broker.close()

    def end(self, bound: float = 1.0) -> None:
        """Ask it to end, and wait for `bound` seconds at most."""
        self._ended.set()
        if self.is_alive():
            self.join(bound)


def _see_spool(spool: Spool) -> None:
    """Say at start that a spool cannot be used, and not only when the broker is away and it is wanted."""
    try:
        distrusts = spool.distrusts()
        writable = spool.status().writable
    except SpoolError as exc:
        if spool.is_empty():  # else shipping says it, at once
            logger.warning("%s.%s", exc, fix_of(exc))
        return
    if not writable:
        logger.warning(
            "the spool %s cannot be written: what a broker that is away does not take stays unacknowledged, and "
            "tasks that are acknowledged early do not begin. %s",
            spool.directory, SPOOL_FIX,
        )  # fmt: skip
    if distrusts and spool.is_empty():
        logger.warning(
            "the spool %s: what a broker that is away does not take is kept there, and not shipped. Type: %s",
            distrusts[0], distrusts[0].fix,
        )  # fmt: skip


def purge_waiting(guard: Guardrails) -> int:
    """Take away what waits for one of the queues that this process consumes; gives how many. Never raises.

    Args:
        guard: the application's guardrails.
    """
    waiting, gone = guard.waiting, 0
    if waiting.outside and not waiting.listed:
        logger.warning("purge: what waits by %s stays, and comes when it is due", waiting.name)
    if not waiting.listed:
        return 0
    try:
        queues, after = set(guard.app.amqp.queues.consume_from), None
        while page := waiting.entries(_PAGE, after):
            gone += waiting.remove([entry.id for entry in page if entry.queue in queues])
            after = page[-1].id
    except Exception:
        logger.warning("purge: what waits for the purged queues is still there, or some of it", exc_info=True)
    if gone:
        logger.warning("purge: erased %d messages that waited for these queues", gone)
    return gone
