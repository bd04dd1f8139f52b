"""The spool: whether it can be written, and what waits in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from celery_guardrails.alerts.text import count_of
from celery_guardrails.cli.output import span
from celery_guardrails.cli.pitfall.context import Context
from celery_guardrails.cli.pitfall.disk import mount_of, read_mounts
from celery_guardrails.cli.pitfall.finding import Finding, fault, fine, warning
from celery_guardrails.errors import SpoolError
from celery_guardrails.transport.spool import SpoolStatus

__all__ = ["directory"]

_FULL = 0.8
_ELSEWHERE = "set dead_letter.spool_dir to a directory that workers may write to"


def directory(context: Context) -> Iterator[Finding]:
    """The directory of this machine, as seen from this working directory: workers elsewhere have their own."""
    whole = Path(context.settings.dead_letter.spool_dir).resolve()
    try:
        status = context.guardrails.spool.status()
    except SpoolError as exc:
        yield fault(f"{whole} cannot be read: {exc.reason}", _ELSEWHERE)
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


def _contents(context: Context, whole: Path, status: SpoolStatus) -> Iterator[Finding]:
    if status.unreadable:
        files = count_of(status.unreadable, "file")
        yield warning(f"{whole}: {files} could not be read and is set aside", "look at *.unreadable, and report it")
    if not status.entries:
        if status.writable:
            yield fine(f"{whole}: can be written, nothing waits in it")
        return
    since = f", the oldest for {span(context.now - status.oldest_at)}" if status.oldest_at else ""
    words = f"{whole}: {count_of(status.entries, 'entry waits', 'entries wait')}{since}, {status.bytes:,} bytes"
    if status.bytes > _FULL * status.limit:
        fix = "bring the broker back, then start a worker or guardian here; or raise dead_letter.spool_limit"
        yield fault(f"{words} of {status.limit:,}: it is nearly full", fix)
    else:
        yield warning(words, "start a worker or guardian in this directory, which ships them to the broker")
