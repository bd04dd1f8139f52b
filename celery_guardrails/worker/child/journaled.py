"""Marks an entry of the journal as done, in the process that ran the task: its letter or retry is published or spooled.

Owns this mark. The worker's main process keeps the entries and removes them when it knows of the end
(`worker/main/journal.py`).
"""

from __future__ import annotations

import logging
from typing import Any

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.transport.body import as_published
from celery_guardrails.worker.failure.original import original_of

__all__ = ["mark_done"]

logger = logging.getLogger("celery_guardrails.worker")


def mark_done(task: Any, request: Any) -> None:
    """Mark a task's entry: this process has published or spooled its letter or its retry; never raises.

    The main process removes the entry when it knows of the end. The mark counts if the main process dies before.

    Args:
        task: the task.
        request: its request in that process.
    """
    try:
        guard, original = Guardrails.of(task.app), original_of(request)
        if task.acks_late or original is None or not guard.settings.dead_letter.journal:
            return
        body = as_published(original.body, original.content_encoding)
        guard.journal.mark_done(request.id, lambda taken: taken.body == body and taken.headers == original.headers)
    except Exception:
        logger.warning("the end of %s[%s] is not marked in the journal", task.name, request.id, exc_info=True)
