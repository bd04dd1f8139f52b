"""How many dead letters still wait in their queues: a note beside what the archive holds.

The broker is asked with a short timeout: if it is down, people must still be able to read the archive.
"""

from __future__ import annotations

from collections.abc import Sequence

from celery_guardrails.cli.output import note
from celery_guardrails.cli.project import Project
from celery_guardrails.command import celery_command
from celery_guardrails.text import count_of
from celery_guardrails.transport.consumer import ConsumerLost, waiting

__all__ = ["note_unarchived", "unarchived"]


def unarchived(project: Project, queues: Sequence[str]) -> int | None:
    """How many dead letters wait in these queues; `None` if the broker does not answer."""
    try:
        return waiting(project.app, queues)
    except ConsumerLost:
        return None


def note_unarchived(project: Project) -> None:
    """Note on stderr how many dead letters are not in the archive yet, if any, and what to do about it."""
    from celery_guardrails.app.topology import dead_letter_queues

    queues = dead_letter_queues(project.guardrails)
    count = unarchived(project, queues)
    if count is None:
        note("The broker does not answer: whether dead letters wait in the queue is not known.")
    elif count:
        still = count_of(count, "dead letter still waits", "dead letters still wait")
        note(f"{still} in the queue, not in the archive yet: run {celery_command(project.name, 'guardian --once')}")
