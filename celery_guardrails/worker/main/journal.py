"""Work that runs at most once, as the worker's main process keeps it on disk.

    keep ──> acknowledge ──> run ──> its end is settled ──> end
      └─ cannot be written: it does not begin (`postpone.py`)

Owns the step from a request to an entry of the journal, and when the entry is removed: once nothing can be lost any
more. A letter that nobody took stays with its entry, and is tried again by the worker's housekeeping
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
from celery_guardrails.worker.main.postpone import postpone, resumed

__all__ = ["acknowledged", "end", "is_kept", "keep", "leave", "strand", "watch"]

logger = logging.getLogger("celery_guardrails.worker")

_TWICE = frozenset((ORIGINAL, "application_headers"))
"""Properties that hold what the entry has elsewhere."""


def keep(request: Any) -> bool:
    """Write a message that is about to be acknowledged to the journal.

    Args:
        request: the worker's request, of a task that runs at most once.

    Returns:
        Whether it may begin. Where the journal cannot be written it goes back to its queue, after a while.
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
    resumed(guard)
    return True


def watch(request: Any) -> None:
    """Have the entry removed when the task has succeeded; to be called before the pool gets the request.

    On the instance, because the class that Celery derives from ours has an `on_success` of its own.
    """
    request.on_success = partial(_succeeded, request, request.on_success)


def acknowledged(request: Any) -> None:
    """The broker has taken the acknowledgement."""
    if request.slot is not None:
        request.slot.acknowledged()


def end(request: Any, heard: bool = True) -> None:
    """The end of a request is settled, or its broker has the message again: its entry is removed; never raises.

    Args:
        request: the worker's request.
        heard: whether the process that ran the task has said that it is over, or none did.
    """
    slot, request.slot = request.slot, None
    request.__dict__.pop("on_success", None)
    if slot is not None:
        slot.done(reuse=heard)


def is_kept(request: Any) -> bool:
    """Whether the journal has it."""
    return request.slot is not None


def leave(request: Any, letter: Letter, queue: str | None) -> None:
    """Keep the entry of a request whose letter neither broker nor spool took; the letter is tried again.

    Args:
        request: the worker's request.
        letter: its letter.
        queue: its dead-letter queue; `None`: the application's.
    """
    slot, request.slot = request.slot, None
    if slot is None:
        logger.warning(
            "%s[%s] is lost to the dead-letter queue: its message was acknowledged early", request.name, request.id
        )
        return
    Guardrails.of(request.task.app).unkept.append((slot, letter, queue))
    logger.warning("%s[%s] stays in the journal until its dead letter is taken", request.name, request.id)


def strand(request: Any) -> None:
    """Keep the entry of a request of which no letter can be made, for whoever finds it when this worker has ended."""
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
