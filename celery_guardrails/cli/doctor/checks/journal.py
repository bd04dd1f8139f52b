"""The journal: whether it keeps early-acknowledged work, and what dead workers left in it."""

from __future__ import annotations

from collections.abc import Iterator

from celery_guardrails.cli.doctor.checks.spool import distrusted
from celery_guardrails.cli.doctor.checks.time_limit import named
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, warning
from celery_guardrails.errors import SpoolError
from celery_guardrails.text import count_of
from celery_guardrails.transport.journal.abandoned import JournalStatus

__all__ = ["entries"]


def entries(context: Context) -> Iterator[Finding]:
    """The directory of this machine, as seen from this working directory: workers elsewhere have their own."""
    early = [task for task in context.guarded if not task.acks_late] if context.settings.enabled else []
    if early and not context.settings.dead_letter.journal:
        yield warning(
            f"dead_letter.journal is off: a killed worker loses the tasks that it acknowledged early, such as "
            f"{named(early)}",
            'leave dead_letter.journal on, or acknowledge late (acks="late")',
        )
    journals = context.guardrails.journals
    try:
        distrusts, status = journals.distrusts(), journals.status()
    except SpoolError as exc:
        yield fault(
            f"{journals.directory} cannot be read: {exc.reason}; tasks that are acknowledged early do not begin",
            exc.fix or "set dead_letter.spool_dir to a directory that workers may write to",
        )
        return
    yield from distrusted(distrusts, "what a dead worker left there does not become dead letters")
    found = list(_left(str(journals.directory), status))
    yield from found
    if early and not found and context.settings.dead_letter.journal:
        words = count_of(status.alive, "worker keeps", "workers keep")
        yield fine(f"{journals.directory}: {words} what is acknowledged early, and dead workers left nothing")


def _left(place: str, status: JournalStatus) -> Iterator[Finding]:
    if status.unreadable:
        files = count_of(status.unreadable, "unreadable file")
        yield warning(f"{place}: {files} set aside", "look at *.unreadable, and report a defect of celery-guardrails")
    if status.entries:
        words = count_of(status.entries, "task that a dead worker had", "tasks that dead workers had")
        yield warning(
            f"{place}: {words} acknowledged early, and no dead letter yet",
            "start a worker or guardian in this directory, which makes dead letters of them",
        )
    for owner in status.held:
        yield warning(
            f"{place}: worker {owner.worker} (pid {owner.pid}) is dead, but a process that it started still runs; what "
            "the worker acknowledged early becomes dead letters only when that process has ended",
            f"find it with `fuser -v {place}/*-{owner.pid}-*/owner`, and end it if it hangs",
        )
