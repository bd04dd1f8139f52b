"""`guardrails audit`: who did what, to which dead letter, why, and how it ended.

Reads only. Owns how the trail is shown; what is in it is in `store/audit.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timezone
from typing import Any

import click

from celery_guardrails.cli.group import LazyGroup
from celery_guardrails.cli.output import Column, emit_json, json_option, limit_type, note, printer, short, table
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.errors import DeadLetterNotFound
from celery_guardrails.recovery import search
from celery_guardrails.redaction.process import shown, shown_data
from celery_guardrails.store import audit as trail
from celery_guardrails.store.audit import ACTIONS, AuditEntry
from celery_guardrails.text import count_of

__all__ = ["audit"]

_NAMES = ("seq", "at", "actor", "action", "target", "outcome", "reason", "before", "after", "operation_id")


@click.group(cls=LazyGroup)
def audit() -> None:
    """See who did what, and why."""


@audit.command("list", short_help="List the audit trail, the newest first.")
@click.option("--target", metavar="ID", help="Only of this dead letter: its id or its task id, or how one begins.")
@click.option("--action", type=click.Choice(ACTIONS), help="Only this action.")
@click.option("--limit", type=limit_type, default=50, show_default=True, help="At most so many.")
@json_option
@click.pass_context
def list_(ctx: click.Context, target: str | None, action: str | None, limit: int, as_json: bool) -> None:
    """List the audit trail, the newest first.

    It holds every change of a dead letter's state, every pass of `prune`, and every report that was refused. When a
    letter is pruned, its trail stays for as long as the setting `retention` says under `audit`.
    """
    project = project_of(ctx)
    found = _entries(project, target, action, limit + 1)
    shown_entries, more = found[:limit], len(found) > limit
    if as_json:
        emit_json([_as_json(entry) for entry in shown_entries])
        return
    _list(shown_entries)
    rest = ", the newest; --limit shows more" if more else ""
    if shown_entries:
        note(f"{count_of(len(shown_entries), 'entry', 'entries')}{rest}.")
    else:
        note("No entry of the audit trail matches." if target or action else "The audit trail is empty.")


def _entries(project: Project, target: str | None, action: str | None, limit: int) -> list[AuditEntry]:
    whole, begins = None, None
    if target is not None:
        try:
            whole = search.get(project.archive, target).summary.id
        except DeadLetterNotFound:  # the letter may be pruned, and its trail still there
            begins = target.strip()
    with project.archive.read() as conn:
        return trail.entries(conn, target=whole, target_begins=begins, action=action, limit=limit)


def _list(found: Sequence[AuditEntry]) -> None:
    if not found:
        return
    console = printer()
    rows = [
        (
            entry.at.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S"),
            shown(entry.actor),
            entry.action,
            short(entry.target, console),
            entry.outcome,
            shown(_why(entry)),
        )
        for entry in found
    ]
    by, reason = Column("Actor", "fold"), Column("Reason", "fold")
    table(console, ["At (UTC)", by, "Action", "Target", "Outcome", reason], rows)


def _why(entry: AuditEntry) -> str:
    """The reason; for a pass of `prune` also what it removed."""
    if entry.action != "prune" or not entry.after:
        return entry.reason
    removed = ", ".join(f"{count:,} {kind}" for kind, count in entry.after.items())
    return f"{entry.reason}: removed {removed}"


def _as_json(entry: AuditEntry) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(entry, name) for name in _NAMES}
    texts: dict[str, Any] = shown_data({name: value for name, value in found.items() if name != "at"})
    return {name: found[name] if name == "at" else texts[name] for name in _NAMES}
