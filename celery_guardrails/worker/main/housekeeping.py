"""What a worker does besides running tasks: one thread ships the spool, releases due messages, looks for what dead
workers left, and sends figures.

Owns that thread of the main process. It has its own broker connections and never touches the event loop. It starts
after the pool, so that no child is forked while it holds a lock, and ends with the worker. `transport/service.py` does
the work.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutdown

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import SpoolError
from celery_guardrails.service import Runner, Service
from celery_guardrails.transport.service import SPOOL_FIX, fix_of
from celery_guardrails.transport.spool import Spool
from celery_guardrails.worker.failure.broker_services import BrokerServices
from celery_guardrails.worker.main import lease
from celery_guardrails.worker.main.figures import FiguresShipping

__all__ = ["Housekeeping", "HousekeepingThread", "purge_waiting"]

logger = logging.getLogger("celery_guardrails.worker")

_SHORTEST_NAP, _LONGEST_NAP = 0.01, 5.0
_PAGE = 500
"""Waiting messages that a purge reads in one step."""


class Housekeeping(bootsteps.StartStopStep):  # type: ignore[misc]
    """The worker's step that starts the thread after the pool, and ends it.

    It runs with `enabled: False` too: messages that were spooled or wait from before must not be left behind.
    """

    label = "Housekeeping"
    requires = ("celery.worker.components:Pool", "celery_guardrails.worker.main.steps:GuardStep")

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        self.obj: HousekeepingThread | None = None
        self._figures: FiguresShipping | None = None
        self._guard: Guardrails | None = None
        super().__init__(worker, **kwargs)

    def create(self, worker: Any) -> HousekeepingThread | None:
        """Make the thread. The journal is opened here too, before the children are forked: they share it."""
        try:
            self._guard = guard = Guardrails.of(worker.app)
            logger.debug("the spool is %s, retries wait by %s", guard.spool.directory, guard.waiting.name)
            _check_spool(guard.spool)
            self._open_journal(guard, worker.hostname)
            worker_shutdown.connect(self._give_leases_back, sender=worker)
            if guard.settings.enabled:
                self._figures = FiguresShipping(guard, worker.hostname)
                # the pool, which stops after this step, still reports the ends of tasks
                worker_shutdown.connect(self._finish_figures, sender=worker)
            return HousekeepingThread(BrokerServices(guard), [self._figures] if self._figures is not None else [])
        except Exception:
            logger.warning("this worker ships no spool and releases nothing that waits", exc_info=True)
            return None

    def start(self, worker: Any) -> None:
        """Start the thread. With `--purge`, which empties the worker's queues, first remove what waits for them."""
        if getattr(worker, "purge", False):
            purge_waiting(Guardrails.of(worker.app))
        super().start(worker)

    def stop(self, worker: Any) -> None:
        """End the thread. If it does not end within a second, what it was publishing stays in the spool."""
        if self.obj is not None:
            self.obj.end()
            Guardrails.of(worker.app).journal.close()

    def terminate(self, worker: Any) -> None:
        """As `stop`."""
        self.stop(worker)

    def _give_leases_back(self, **_: Any) -> None:
        """Called by Celery when everything else of the worker has ended."""
        if self._guard is not None and (leases := lease.of(self._guard)) is not None:
            leases.close()

    def _finish_figures(self, **_: Any) -> None:
        """Called by Celery when everything else of the worker has ended."""
        figures, self._figures = self._figures, None
        if figures is not None:
            figures.finish(clock.now())

    def _open_journal(self, guard: Guardrails, worker: str) -> None:
        """Open the journal before the pool forks: children share its lock with the worker for as long as they run."""
        if not guard.settings.enabled or not guard.settings.dead_letter.journal:
            return
        if not all(task.acks_late for task in guard.guarded_tasks()):
            try:
                guard.journal.open(worker)
            except SpoolError as exc:
                logger.warning("%s: tasks that run at most once do not begin until it can be written", exc)


class HousekeepingThread(threading.Thread):
    """Runs services by turns until `end` is called.

    Args:
        broker: the services; their connections are closed at the end.
        further: more services, which the caller closes.
    """

    def __init__(self, broker: BrokerServices, further: Sequence[Service] = ()) -> None:
        super().__init__(name="guardrails-housekeeping", daemon=True)
        self._broker = broker
        self._ended = threading.Event()
        self._runner = Runner([*broker.services, *further], logger, "housekeeping (%s)")

    def run(self) -> None:
        """Run the services; never raises."""
        try:
            while not self._ended.is_set():
                self._runner.serve(clock.now, self._ended.is_set)
                self._ended.wait(self._runner.idle(clock.now(), _SHORTEST_NAP, _LONGEST_NAP))
        finally:
            self._broker.close()

    def end(self, bound: float = 1.0) -> None:
        """Ask the thread to end, and wait for `bound` seconds at most."""
        self._ended.set()
        if self.is_alive():
            self.join(bound)


def _check_spool(spool: Spool) -> None:
    """Log at start if the spool cannot be used, and not only when the broker is away and the spool is needed."""
    try:
        distrusts = spool.distrusts()
        writable = spool.status().writable
    except SpoolError as exc:
        if spool.is_empty():  # else the service that ships the spool logs it at once
            logger.warning("%s.%s", exc, fix_of(exc))
        return
    if not writable:
        logger.warning(
            "the spool %s cannot be written: while the broker is away, messages of failed tasks stay unacknowledged. "
            "Tasks that are acknowledged early do not begin. %s",
            spool.directory, SPOOL_FIX,
        )  # fmt: skip
    if distrusts and spool.is_empty():
        logger.warning(
            "the spool %s: what is spooled while the broker is away is kept there, and not shipped. Type: %s",
            distrusts[0], distrusts[0].fix,
        )  # fmt: skip


def purge_waiting(guard: Guardrails) -> int:
    """Remove the messages that wait for the queues of this process; returns how many. Never raises.

    Args:
        guard: the application's guardrails.
    """
    waiting, gone = guard.waiting, 0
    if waiting.outside and not waiting.listed:
        logger.warning("purge: messages that wait by %s stay, and come to their queues when they are due", waiting.name)
    if not waiting.listed:
        return 0
    try:
        queues, after = set(guard.app.amqp.queues.consume_from), None
        while page := waiting.entries(_PAGE, after):
            gone += waiting.remove([entry.id for entry in page if entry.queue in queues])
            after = page[-1].id
    except Exception:
        logger.warning("purge: some or all messages that wait for the purged queues are still there", exc_info=True)
    if gone:
        logger.warning("purge: erased %d messages that waited for these queues", gone)
    return gone
