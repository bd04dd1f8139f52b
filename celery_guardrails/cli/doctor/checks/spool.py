"""The spool: whether it can be written, who else can write it, and what waits in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from celery_guardrails.access import Distrust, exposure, movable_by
from celery_guardrails.cli.doctor.checks.disk import mount_of, read_mounts
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, warning
from celery_guardrails.cli.output import span
from celery_guardrails.errors import SpoolError
from celery_guardrails.text import count_of
from celery_guardrails.transport.spool import SpoolStatus

__all__ = ["directory", "distrusted", "trusted"]

_FULL = 0.8
_SHOWN = 3
_ELSEWHERE = "set dead_letter.spool_dir to a directory that workers may write to"


def directory(context: Context) -> Iterator[Finding]:
    """The directory of this machine, as seen from this working directory: workers elsewhere have their own."""
    whole = context.guardrails.spool.directory
    try:
        status = context.guardrails.spool.status()
    except SpoolError as exc:
        yield fault(f"{whole} cannot be read: {exc.reason}", exc.fix or _ELSEWHERE)
        return
    if not status.writable:
        yield fault(
            f"{whole} cannot be written: a dead letter that the broker does not take stays unacknowledged", _ELSEWHERE
        )
    mount = mount_of(whole, read_mounts())
    if mount is not None and (mount.in_memory or mount.in_layer):
        ends = "a restart of the machine empties it" if mount.in_memory else "it ends with the container"
        yield warning(f"{whole} is on {mount.type}: {ends}", "set dead_letter.spool_dir to a disk that lasts")
    yield from _contents(context, whole, status)


def trusted(context: Context) -> Iterator[Finding]:
    """Who else may write the directory, what is in it, and the directories above."""
    spool = context.guardrails.spool
    try:
        found = spool.distrusts()
    except SpoolError:  # the check of the directory reports it
        return
    yield from distrusted(found, "nothing of it is shipped to the broker")
    for each in exposure([spool.directory]) if spool.directory.is_dir() and not found else ():
        yield warning(f"{each}; messages and dead letters are kept in it", each.fix)
    above = movable_by(spool.directory) if spool.directory.exists() else None
    if above is not None:
        yield warning(f"{above}: whoever writes there can remove {spool.directory.name} and all in it", above.fix)


def distrusted(found: list[Distrust], consequence: str) -> Iterator[Finding]:
    """A fault for each of the first few, and one for how many more there are."""
    for each in found[:_SHOWN]:
        yield fault(f"{each}: {consequence}", each.fix)
    if len(found) > _SHOWN:
        yield fault(f"{len(found) - _SHOWN:,} more are not trusted", "correct these first, then run doctor again")


def _contents(context: Context, whole: Path, status: SpoolStatus) -> Iterator[Finding]:
    if status.unreadable:
        files = count_of(status.unreadable, "unreadable file")
        yield warning(f"{whole}: {files} set aside", "look at *.unreadable, and report a defect of celery-guardrails")
    if not status.entries:
        if status.writable and not context.guardrails.spool.distrusts():
            yield fine(f"{whole}: can be written, nothing waits in it")
        return
    since = f", the oldest for {span(context.now - status.oldest_at)}" if status.oldest_at else ""
    words = f"{whole}: {count_of(status.entries, 'entry waits', 'entries wait')}{since}, {status.bytes:,} bytes"
    if status.bytes > _FULL * status.limit:
        fix = "bring the broker back, then start a worker or guardian here; or raise dead_letter.spool_limit"
        yield fault(f"{words} of {status.limit:,}: it is nearly full", fix)
    else:
        yield warning(words, "start a worker or guardian in this directory, which ships them to the broker")
