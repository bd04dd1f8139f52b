"""Messages of tasks that run at most once, as the worker's main process keeps them on disk.

    keep ──> acknowledge ──> run ──> the end is settled ──> end
      └─ the journal cannot be written: the task does not begin (`postpone.py`)

Owns writing the entry of a request, and when the entry is removed: once nothing can be lost any more. A letter that
neither broker nor spool took stays with its entry; the worker's housekeeping tries it again
(`worker/failure/lost.py`).
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from celery_guardrails import clock
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import SpoolError
from celery_guardrails.letters.record import Letter
from celery_guardrails.transport.body import as_published
from celery_guardrails.transport.journal.entry import Taken
from celery_guardrails.worker.failure.original import ORIGINAL, Original
from celery_guardrails.worker.main.postpone import postpone, resume

__all__ = ["end", "end_on_success", "is_kept", "keep", "leave", "leave_without_letter", "note_acknowledged"]

logger = logging.getLogger("celery_guardrails.worker")

_TWICE = frozenset((ORIGINAL, "application_headers"))
"""Properties that repeat other fields of the entry."""


def keep(request: Any) -> bool:
    """Write a message that is about to be acknowledged to the journal.

    Args:
        request: the worker's request, of a task that runs at most once.

    Returns:
        Whether the task may begin. If the journal cannot be written, the message goes back to its queue after a while.
    """
    guard = Guardrails.of(request.task.app)
    if not guard.settings.dead_letter.journal:
        return True
    try:
        request.slot = guard.journal.keep(_taken(request))
    except SpoolError as exc:
        postpone(guard, request, exc)
        return False
    except Exception:
        logger.warning("%s[%s] runs without an entry in the journal", request.name, request.id, exc_info=True)
        return True
    resume(guard)
    return True


def end_on_success(request: Any) -> None:
    """Have the entry removed when the task has succeeded. Call it before the pool gets the request.

    The method is set on the instance, because the class that Celery derives from ours has its own `on_success`.
    """
    request.on_success = partial(_succeeded, request, request.on_success)


def note_acknowledged(request: Any) -> None:
    """Mark the entry: the broker has taken the acknowledgement."""
    if request.slot is not None:
        request.slot.acknowledged()


def end(request: Any, reported: bool = True) -> None:
    """Remove the entry of a request whose end is settled, or whose message the broker has again; never raises.

    Args:
        request: the worker's request.
        reported: whether the process that ran the task has reported its end, or no process has run it. Otherwise that
            process may still live.
    """
    slot, request.slot = request.slot, None
    request.__dict__.pop("on_success", None)
    if slot is not None:
        slot.done(reuse=reported)


def is_kept(request: Any) -> bool:
    """Whether the journal has an entry of the request."""
    return request.slot is not None


def leave(request: Any, letter: Letter, queue: str | None) -> None:
    """Keep the entry of a request whose letter neither broker nor spool took; housekeeping tries the letter again.

    Args:
        request: the worker's request.
        letter: its letter.
        queue: its dead-letter queue; `None`: the application's.
    """
    slot, request.slot = request.slot, None
    if slot is None:
        words = "%s[%s] gets no dead letter: its message was acknowledged early, and is not in the journal"
        logger.warning(words, request.name, request.id)
        return
    Guardrails.of(request.task.app).unkept.append((slot, letter, queue))
    logger.warning("%s[%s] stays in the journal until its dead letter is taken", request.name, request.id)


def leave_without_letter(request: Any) -> None:
    """Keep the entry of a request of which no letter can be made: other workers find it when this worker has ended."""
    if request.slot is not None:
        request.slot = None
        logger.warning("%s[%s] stays in the journal until this worker ends", request.name, request.id)


def _succeeded(request: Any, celery: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return celery(*args, **kwargs)
    finally:
        end(request)


def _taken(request: Any) -> Taken:
    message, properties = request.message, request.request_dict["properties"]
    original = Original(*properties[ORIGINAL])
    return Taken(
        body=as_published(message.body, message.content_encoding),
        headers=message.headers,
        properties={key: value for key, value in properties.items() if key not in _TWICE},
        delivery=request.delivery_info,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        worker=str(request.hostname or ""),
        tag=str(message.delivery_tag or ""),
        at=clock.now(),
        arrival=original.arrival,
    )
