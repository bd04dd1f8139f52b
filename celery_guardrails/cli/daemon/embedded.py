"""`celery worker --guardian`: a guardian in a process of its own, which starts and ends with the worker.

It is a process, like Celery's embedded beat, and works with every pool but gevent and eventlet. Archiving must not wait
for a task that keeps the worker's own thread busy (solo), nor for the GIL; a crash of one must not end the other.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from datetime import timedelta
from typing import Any

from billiard.context import Process
from celery import Celery, bootsteps, platforms
from celery.exceptions import ImproperlyConfigured
from celery.utils.log import get_logger, iter_open_logger_fds

from celery_guardrails.command import celery_command

__all__ = ["EmbeddedGuardian"]

logger = get_logger("celery_guardrails.guardian")

PATIENCE = timedelta(seconds=15)
"""How long a worker that ends waits for its guardian; what is not archived by then stays in the queue."""
_LOOK_EVERY = 5.0
_FOLLOW_EVERY = 1.0


class EmbeddedGuardian(bootsteps.StartStopStep):  # type: ignore[misc]
    """The worker's step: starts the guardian's process, logs it when the process ends by itself, and stops it."""

    label = "Guardian"
    conditional = True
    requires = ("celery.worker.components:Timer",)

    def __init__(self, worker: Any, guardian: bool = False, **kwargs: Any) -> None:
        self.obj: Any = None
        self.enabled = bool(guardian)
        self._watch: Any = None
        super().__init__(worker, **kwargs)

    def create(self, worker: Any) -> _Process:
        """Start the process here, not in `start`: other steps may have started threads by then.

        If one thread imports a module while another thread forks, the child waits for that module for ever.

        Raises:
            ImproperlyConfigured: the pool is gevent or eventlet, which cannot have processes beside it.
        """
        if worker.pool_cls.__module__.endswith(("gevent", "eventlet")):
            raise ImproperlyConfigured(
                "--guardian does not work with the gevent and eventlet pools: run a guardian as its own process, "
                f"{celery_command(_project_name(), 'guardian')}"
            )
        process = _Process(worker.app, _project_name())
        process.start()
        return process

    def start(self, worker: Any) -> None:
        """Watch the process."""
        self._watch = worker.timer.call_repeatedly(_LOOK_EVERY, self._look)

    def stop(self, worker: Any) -> None:
        """Let the guardian finish its batch, and wait for it."""
        self._end()

    def terminate(self, worker: Any) -> None:
        """As `stop`: the guardian ends quickly, and its work is safe in the queue."""
        self._end()

    def _look(self) -> None:
        if self.obj is not None and not self.obj.is_alive():
            logger.warning(
                "the guardian inside this worker ended with exit code %s; dead letters wait in their queue until "
                "another guardian runs",
                self.obj.exitcode,
            )
            self._watch.cancel()
            self.obj = None

    def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        process, self.obj = self.obj, None
        if process is None:
            return
        process.terminate()
        process.join(PATIENCE.total_seconds())
        if process.is_alive():
            logger.warning("the guardian did not end in time and is killed; what it had not archived is in the queue")
            os.kill(process.pid, 9)
            process.join(1)


class _Process(Process):  # type: ignore[misc]
    """The guardian's process."""

    def __init__(self, app: Celery, project_name: str) -> None:
        super().__init__()
        self.name = "Guardian"
        self._app = app
        self._project_name = project_name
        self._parent = os.getpid()

    def run(self) -> None:
        # Alembic logs each of its plugins at import, and each step of a migration.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from celery_guardrails.cli.group import lacking
        from celery_guardrails.cli.project import Project
        from celery_guardrails.errors import GuardrailsError

        try:
            from celery_guardrails.cli.daemon.command import serve, stopped_by_signals
        except ModuleNotFoundError as exc:
            logger.error("the guardian inside this worker cannot run: %s", lacking(exc) or exc)
            sys.exit(1)
        platforms.signals.reset("INT", "TERM")
        platforms.close_open_fds([sys.__stdin__, sys.__stdout__, sys.__stderr__, *iter_open_logger_fds()])
        self._app.set_default()
        self._app.set_current()
        platforms.set_mp_process_title("celeryd", info="-guardian-")
        with stopped_by_signals() as stop:
            threading.Thread(target=self._follow_parent, args=(stop,), daemon=True).start()
            try:
                serve(Project(self._app, self._project_name), stop)
            except GuardrailsError as exc:
                logger.error("the guardian inside this worker cannot run: %s", exc)
                sys.exit(1)

    def _follow_parent(self, stop: threading.Event) -> None:
        # A worker that is killed cannot stop its guardian.
        while not stop.wait(_FOLLOW_EVERY):
            if os.getppid() != self._parent:
                stop.set()


def _project_name() -> str:
    import click

    from celery_guardrails.cli.project import project_of
    from celery_guardrails.errors import UNNAMED_APP

    context = click.get_current_context(silent=True)
    return project_of(context).name if context is not None and context.obj is not None else UNNAMED_APP
