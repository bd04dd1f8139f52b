"""`dlq prune`: removing at once what has been kept long enough by the setting `retention`, and what belongs to it."""

from __future__ import annotations

from datetime import timedelta

import click

from celery_guardrails import clock
from celery_guardrails.cli.actor import whoever_runs_this
from celery_guardrails.cli.output import Column, emit_json, is_attended, note, progress, span, table
from celery_guardrails.cli.output import printer as console_of
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.recovery.retention import kept, prune_pass
from celery_guardrails.store import retention

__all__ = ["prune"]

_NAMES = {
    "dead": "Dead letters",
    "recovered": "Recovered letters",
    "discarded": "Discarded letters",
    retention.AUDIT: "Audit entries",
    retention.ALERT_EVENTS: "Alert events",
    retention.NOTIFICATIONS: "Sent notifications",
    retention.ALERT_GROUPS: "Alerts that are over",
    retention.GUARDIANS: "Guardians long gone",
    retention.MINUTE_FIGURES: "Figures by the minute",
    retention.HOUR_FIGURES: "Figures by the hour",
    retention.TASK_FIGURES: "Totals of tasks",
    retention.LETTER_FIGURES: "Totals of dead letters",
    retention.SUMMARIES: "Ids of workers' summaries",
    retention.COUNTED_DEATHS: "Deaths counted by workers and not archived",
}


@click.command(short_help="Remove what was kept for longer than `retention` says.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@click.option("--yes", is_flag=True, help="Do not ask on a terminal.")
@click.option("--by", metavar="WHO", default=None, help="Who does it. Default user@host.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object and nothing else.")
@click.pass_context
def prune(ctx: click.Context, /, dry_run: bool, yes: bool, by: str | None, as_json: bool) -> None:
    """Remove for good what the setting `retention` says has been kept long enough. A guardian does it every hour."""
    project = project_of(ctx)
    setting = project.guardrails.settings.retention
    keep = kept(setting)
    now = clock.now()
    with project.archive.read() as conn:
        due = retention.due(conn, keep, now)
    removed = dict.fromkeys(due, 0)
    if not dry_run and any(due.values()):
        if not yes:
            _ask(ctx, project, due)
        with progress("prune", sum(due.values())) as advance:
            while True:
                pruned = prune_pass(project.archive, setting, by or whoever_runs_this(), now)
                for kind, count in pruned.counts.items():
                    removed[kind] += count
                advance(pruned.total)
                if not pruned.more:
                    break
    if as_json:
        emit_json({"action": "prune", "dry_run": dry_run, "due": due, "removed": removed})
        return
    _print_counts(keep, due, None if dry_run else removed)
    if not any(due.values()):
        note("Nothing has been kept for longer than the setting `retention` says.")
    else:
        go_on = f"Nothing was changed. To remove what is due: {project.typed('dlq prune')}"
        note(go_on if dry_run else f"Removed {sum(removed.values()):,} rows.")


def _ask(ctx: click.Context, project: Project, due: dict[str, int]) -> None:
    what = ", ".join(f"{count:,} {_NAMES[kind].lower()}" for kind, count in due.items() if count)
    if not is_attended():
        again = project.typed_again(ctx, "--yes")
        raise click.UsageError(f"There is no terminal to ask at, so add --yes (--dry-run counts first): {again}")
    click.confirm(f"Remove {what} for good?", abort=True, err=True)


def _print_counts(keep: dict[str, timedelta | None], due: dict[str, int], removed: dict[str, int] | None) -> None:
    rows = []
    for kind in retention.KINDS:
        age = keep.get(kind)
        kept_for = "for ever" if age is None else span(age)
        gone = [] if removed is None else [f"{removed.get(kind, 0):,}"]
        rows.append([_NAMES[kind], kept_for, f"{due.get(kind, 0):,}", *gone])
    counts = ["Due"] if removed is None else ["Due", "Removed"]
    table(console_of(), ["Kind", "Kept", *(Column(title, right=True) for title in counts)], rows)
