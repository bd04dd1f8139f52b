"""`guardrails alerts`: which problems have an alert, and whether an alert would arrive."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click
from rich.text import Text

from celery_guardrails import clock
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.alerts.sinks.build import build_sink
from celery_guardrails.alerts.sinks.sink import Message
from celery_guardrails.cli.daemon.assembly import alerts_go_to
from celery_guardrails.cli.group import LazyGroup
from celery_guardrails.cli.output import Column, ago, emit_json, json_option, note, printer, say, table
from celery_guardrails.cli.pending import note_unarchived
from celery_guardrails.cli.project import project_of
from celery_guardrails.errors import SinkError
from celery_guardrails.redaction.process import shown
from celery_guardrails.store import alert
from celery_guardrails.store.alert import GroupRow
from celery_guardrails.text import count_of

__all__ = ["alerts"]

_STATES = {"pending": "yellow", "open": "red", "quiet": "yellow", "resolved": "green"}


@click.group(cls=LazyGroup)
def alerts() -> None:
    """See the alerts, and test whether they arrive."""


@alerts.command("list")
@click.option("--state", type=click.Choice([*_STATES]), help="Only in this state.")
@json_option
@click.pass_context
def list_(ctx: click.Context, state: str | None, as_json: bool) -> None:
    """List the alert groups: one for each problem, the latest first."""
    project = project_of(ctx)
    with project.archive.read() as conn:
        rows = alert.load_groups(conn, states=[state] if state else [*_STATES])
    found = [(row, group) for row in rows if (group := _read(row)) is not None]
    found.sort(key=lambda pair: pair[1].last_at.timestamp() if pair[1].last_at else 0.0, reverse=True)
    if as_json:
        emit_json([_as_json(row, group) for row, group in found])
    else:
        _list(found, clock.now())
        note(f"{count_of(len(found), 'alert group')}; alerts go to {alerts_go_to(project.settings)}.")
    note_unarchived(project)


@alerts.command()
@json_option
@click.pass_context
def test(ctx: click.Context, as_json: bool) -> None:
    """Send a test alert to where alerts go, and say what happened."""
    project = project_of(ctx)
    settings, sink = project.settings, build_sink(project.settings.slack)
    words = f"Test alert from celery-guardrails ({settings.environment}): alerts of {project.name} arrive here."
    try:
        sink.check()
        posted = sink.post(Message(text=words, plain=words))
    except SinkError as exc:
        if as_json:
            emit_json({"sink": sink.name, "sent": False, "problem": shown(exc.reason)})
            ctx.exit(1)
        raise click.ClickException(
            f"The test alert did not arrive at {alerts_go_to(settings)}: {shown(exc.reason)}"
        ) from exc
    if as_json:
        emit_json({"sink": sink.name, "sent": True, "channel": posted.channel, "problem": None})
    else:
        say(f"The test alert was sent to {alerts_go_to(settings)}.")


def _read(row: GroupRow) -> AlertGroup | None:
    """The group; `None`, with a note, if it cannot be read, so that the others are still listed."""
    try:
        return AlertGroup.from_payload(row.data)
    except ValueError:
        note(f"The alert of {row.task} ({row.environment}) cannot be read, and begins anew with its next dead letter.")
        return None


def _list(found: list[tuple[GroupRow, AlertGroup]], now: datetime) -> None:
    if not found:
        return
    rows = []
    for row, group in found:
        undecided = group.letters.dead if group.letters and row.state == "resolved" else 0
        words = f"{row.state}, {undecided:,} undecided" if undecided else row.state
        state = Text(words, "yellow" if undecided else _STATES.get(row.state, ""))
        rows.append(
            (group.alert_id, state, group.task, f"{group.total:,}", ago(group.first_at, now), ago(group.last_at, now),
             _worst(group), group.owner or "")
        )  # fmt: skip
    letters, most = Column("Letters", right=True), Column("Most often", "flex")
    table(printer(), ["Alert", "State", Column("Task", "fold"), letters, "First", "Last", most, "Owner"], rows)


def _worst(group: AlertGroup) -> str:
    most = max(group.errors.values(), key=lambda error: error.count, default=None)
    return f"{most.error.rpartition('.')[2]}: {most.message}" if most else ""


def _as_json(row: GroupRow, group: AlertGroup) -> Mapping[str, Any]:
    return {
        "alert": group.alert_id,
        "state": row.state,
        "environment": group.environment,
        "task": group.task,
        "fingerprint": group.fingerprint,
        "unknown_names": None if group.unknown_names is None else group.unknown_names.values,
        "period": group.period,
        "severity": group.severity,
        "owner": group.owner,
        "total": group.total,
        "first_at": group.first_at,
        "last_at": group.last_at,
        "reasons": dict(group.reasons),
        "posted": row.message_ts is not None,
        "channel": row.channel,
    }
