"""Keeps out of Sentry that a pool process exited, where the event of the task that it ran says so already.

Billiard logs each exit as an error, of which Sentry makes an event of its own, without a word about the task. The main
process knows which process ran which task. An exit of a process that ran no guarded task stays an event.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from celery.worker import state

from celery_guardrails.worker.failure.sentry import sentry_of_application

__all__ = ["ExitEvents", "exit_events"]

_LOGGER, _EXITED = "multiprocessing", "Process %r pid:%r exited with %r"
_REMEMBERED = 200


class ExitEvents:
    """Drops the events of exits that another event tells of. One object for each process."""

    def __init__(self) -> None:
        self._told: deque[int] = deque(maxlen=_REMEMBERED)
        self._is_installed = False

    def install(self) -> None:
        """Look at the events of this process from now on, if the application has Sentry; a second call does nothing."""
        sdk = sentry_of_application()
        if sdk is not None and not self._is_installed:
            self._is_installed = True
            sdk.get_global_scope().add_event_processor(self._process)

    def note(self, pid: int | None) -> None:
        """Note that a process will be killed for a task whose event is sent."""
        if pid is not None:
            self._told.append(pid)

    def _process(self, event: Any, hint: Any) -> Any:
        record = hint.get("log_record")
        if record is None or record.name != _LOGGER or record.msg != _EXITED or len(record.args) != 3:
            return event
        return None if self._is_told(record.args[1]) else event

    def _is_told(self, pid: Any) -> bool:
        if pid in self._told:
            return True
        running = [request for request in tuple(state.active_requests) if hasattr(request, "dead_lettered")]
        return any(getattr(request, "worker_pid", None) == pid for request in running)


exit_events = ExitEvents()
"""Those of this process."""
