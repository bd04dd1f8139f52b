"""Whether this worker's main process is shutting down. Celery then notes an exit code, and 0 is one."""

from __future__ import annotations

from celery.worker import state

__all__ = ["is_ending", "is_ending_cold"]


def is_ending() -> bool:
    """Whether a warm or a cold shutdown is under way."""
    return _is_code(state.should_stop) or is_ending_cold()


def is_ending_cold() -> bool:
    """Whether a cold shutdown is under way: tasks that run are cancelled."""
    return _is_code(state.should_terminate)


def _is_code(noted: object) -> bool:
    return noted is not None and noted is not False
