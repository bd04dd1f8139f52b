"""`guardrails alerts`: which problems have an alert, what people do about them, and whether an alert would arrive.

Owns the command lines and what they show; `alerts/people.py` does what is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click
from rich.text import Text

from celery_guardrails import clock
from celery_guardrails.alerts.cover import silence_of
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.alerts.people import Actor, acknowledge, end_silence, find_alert, new_silence, unacknowledge
from celery_guardrails.alerts.render import Style, render
from celery_guardrails.alerts.rules import Rules
from celery_guardrails.alerts.sinks.build import build_sink
from celery_guardrails.alerts.stored import read_group
from celery_guardrails.cli.actor import given_reason, whoever_runs_this
from celery_guardrails.cli.daemon.assembly import alerts_go_to
from celery_guardrails.cli.group import LazyGroup
from celery_guardrails.cli.output import Column, ago, emit_json, json_option, note, printer, say, table
from celery_guardrails.cli.pending import note_unarchived
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.cli.simulate import simulate
from celery_guardrails.cli.trial import test
from celery_guardrails.clock import parse_duration
from celery_guardrails.errors import AlertRefused
from celery_guardrails.redaction.process import shown
from celery_guardrails.store import alert, outbox, silence
from celery_guardrails.store.alert import GroupRow
from celery_guardrails.store.outbox import OutboxRow
from celery_guardrails.store.silence import Silence
from celery_guardrails.text import count_of, when

__all__ = ["alerts"]

T = TypeVar("T")

_STATES = {"pending": "yellow", "open": "red", "acknowledged": "cyan", "quiet": "yellow", "resolved": "green"}
_by_option = click.option("--by", metavar="WHO", help="Who does it, for the audit trail. Default: user@host.")


def _duration(_ctx: click.Context, _param: click.Parameter, value: str | None) -> timedelta | None:
    """The callback of `--for`: reads `30m`, `1h`, `2d` and the like."""
    if value is None:
        return None
    try:
        return parse_duration(value)
    except ValueError as exc:
        raise click.BadParameter(f"{value!r} {exc}. Write 30m, 1h, 4h or 24h.") from exc


def _optional_reason(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    return shown(value.strip())


@click.group(cls=LazyGroup)
def alerts() -> None:
    """See the alerts, take care of one, silence some, and test whether they arrive."""


@alerts.command("list")
@click.option("--state", type=click.Choice([*_STATES]), help="Only in this state.")
@json_option
@click.pass_context
def list_(ctx: click.Context, state: str | None, as_json: bool) -> None:
    """List the alert groups: one for each problem, the latest first."""
    project = project_of(ctx)
    with project.archive.read() as conn:
        rows = alert.load_groups(conn, states=[state] if state else [*_STATES])
        silences = silence.lasting(conn, clock.now())
    found = [(row, group) for row in rows if (group := _read(row)) is not None]
    found.sort(key=lambda pair: pair[1].last_at.timestamp() if pair[1].last_at else 0.0, reverse=True)
    if as_json:
        emit_json([_as_json(row, group, silence_of(group, silences)) for row, group in found])
    else:
        _list(found, silences, clock.now())
        note(f"{count_of(len(found), 'alert group')}; alerts go to {alerts_go_to(project.settings)}.")
    note_unarchived(project)


@alerts.command(short_help="Show an alert, and what was sent about it.")
@click.argument("alert_id", metavar="ID")
@json_option
@click.pass_context
def show(ctx: click.Context, alert_id: str, as_json: bool) -> None:
    """Show the alert with this ID, which may be shortened, and what was sent about it."""
    project = project_of(ctx)
    row, group = _asked(lambda: find_alert(project.archive, alert_id))
    with project.archive.read() as conn:
        sent = outbox.of_group(conn, row.key, row.period)
        covering = silence_of(group, silence.lasting(conn, clock.now()))
    notifications = [_notification_as_json(each) for each in sent]
    if as_json:
        emit_json({**_as_json(row, group, covering), "notifications": notifications})
        return
    style = Style(app=project.name, quiet=project.settings.alerts.quiet)
    say(render(group, clock.now(), style).plain)
    times = [(when(each.created_at), each.kind, each.notice, each.status, each.channel or "") for each in sent]
    if times:
        table(printer(), ["At", "Kind", "Why", "Became", "Channel"], times)
    note(f"{count_of(len(times), 'notification')} in this period.")


@alerts.command(short_help="Take care of an alert: no reminder and no escalation meanwhile.")
@click.argument("alert_id", metavar="ID")
@click.option(
    "--for",
    "lasts",
    metavar="DURATION",
    callback=_duration,
    help="How long; default: the setting alerts.acknowledge_for.",
)
@click.option("--reason", default="", callback=_optional_reason, help="Why, for the audit trail.")
@_by_option
@json_option
@click.pass_context
def ack(ctx: click.Context, alert_id: str, lasts: timedelta | None, reason: str, by: str | None, as_json: bool) -> None:
    """Acknowledge the alert with this ID: somebody takes care of it.

    There is no reminder and no escalation until the time is over and it still fails, or it gets more severe.
    """
    project, actor = project_of(ctx), _actor(by, reason)
    lasts = lasts or project.settings.alerts.acknowledge_for
    group = _asked(lambda: acknowledge(project.archive, _rules(project), alert_id, actor, lasts, clock.now()))
    held = group.acknowledged
    until = when(held.until) if held else ""
    if as_json:
        emit_json({"id": group.alert_id, "acknowledged_by": actor.by, "acknowledged_until": held and held.until})
    else:
        say(f"{actor.by} takes care of alert {group.alert_id} ({group.task}) until {until}.")


@alerts.command(short_help="Take an acknowledgement back.")
@click.argument("alert_id", metavar="ID")
@click.option("--reason", default="", callback=_optional_reason, help="Why, for the audit trail.")
@_by_option
@json_option
@click.pass_context
def unack(ctx: click.Context, alert_id: str, reason: str, by: str | None, as_json: bool) -> None:
    """Take the acknowledgement of the alert with this ID back: reminders and escalation go on."""
    project, actor = project_of(ctx), _actor(by, reason)
    group = _asked(lambda: unacknowledge(project.archive, _rules(project), alert_id, actor, clock.now()))
    if as_json:
        emit_json({"id": group.alert_id, "acknowledged_by": None, "acknowledged_until": None})
    else:
        say(f"Nobody takes care of alert {group.alert_id} ({group.task}) now.")


@alerts.command("silence", short_help="Silence the alerts of a task for a while.")
@click.argument("pattern", metavar="TASK")
@click.option(
    "--for",
    "lasts",
    metavar="DURATION",
    callback=_duration,
    required=True,
    help="How long: 30m, 1h, 4h, 24h; at most 7d.",
)
@click.option("--reason", required=True, callback=given_reason, help="Why, for the audit trail.")
@click.option("--fingerprint", metavar="F", help="Only this error; dlq list --json shows fingerprints.")
@click.option("--queue", metavar="NAME", help="Only what came from this queue.")
@_by_option
@json_option
@click.pass_context
def silence_(
    ctx: click.Context, pattern: str, lasts: timedelta, reason: str, fingerprint: str | None, queue: str | None,
    by: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Silence the alerts of TASK, which may have * in it, for a while.

    Dead letters are archived and counted as ever. At the end there is one summary if failures went on.
    """
    project, now = project_of(ctx), clock.now()
    wanted = Silence(
        id="", environment=project.settings.environment, task=pattern, until=now + lasts, reason=reason,
        created_by=_actor(by).by, created_at=now, fingerprint=fingerprint, queue=queue,
    )  # fmt: skip
    made = _asked(lambda: new_silence(project.archive, wanted, project.app.tasks, now=now))
    if as_json:
        emit_json(_silence_as_json(made))
    else:
        say(f"Silence {made.id}: no alert of {made.task} until {when(made.until)}.")


@alerts.command(short_help="List the silences that last.")
@json_option
@click.pass_context
def silences(ctx: click.Context, as_json: bool) -> None:
    """List the silences that last now, those that end first come first."""
    project = project_of(ctx)
    with project.archive.read() as conn:
        found = silence.lasting(conn, clock.now())
    if as_json:
        emit_json([_silence_as_json(one) for one in found])
        return
    rows = [(one.id, shown(one.task), when(one.until), shown(one.created_by), shown(one.reason)) for one in found]
    if rows:
        table(printer(), ["Silence", Column("Task", "fold"), "Until", "By", Column("Reason", "flex")], rows)
    note(f"{count_of(len(rows), 'silence')}.")


@alerts.command(short_help="End a silence now.")
@click.argument("silence_id", metavar="ID")
@click.option("--reason", default="", callback=_optional_reason, help="Why, for the audit trail.")
@_by_option
@json_option
@click.pass_context
def unsilence(ctx: click.Context, silence_id: str, reason: str, by: str | None, as_json: bool) -> None:
    """End the silence with this ID, which may be shortened; `alerts silences` lists them."""
    project, actor = project_of(ctx), _actor(by, reason)
    ended = _asked(lambda: end_silence(project.archive, silence_id, actor, clock.now()))
    if as_json:
        emit_json(_silence_as_json(ended))
    else:
        say(f"The silence {ended.id} of {ended.task} has ended.")


def _read(row: GroupRow) -> AlertGroup | None:
    """The group; `None`, with a note, if it cannot be read, so that the others are still listed."""
    try:
        return read_group(row)
    except ValueError:
        note(f"The alert of {row.task} ({row.environment}) cannot be read, and begins anew with its next dead letter.")
        return None


def _actor(by: str | None, reason: str = "") -> Actor:
    return Actor(shown(by or whoever_runs_this()), reason)


def _asked(act: Callable[[], T]) -> T:
    try:
        return act()
    except AlertRefused as exc:
        raise click.ClickException(str(exc)) from exc


def _rules(project: Project) -> Rules:
    return Rules.from_settings(project.settings.alerts, can_edit=build_sink(project.settings.slack).can_edit)


def _list(found: list[tuple[GroupRow, AlertGroup]], silences: Sequence[Silence], now: datetime) -> None:
    if not found:
        return
    rows = []
    for row, group in found:
        undecided = group.letters.dead if group.letters and row.state == "resolved" else 0
        words = f"{row.state}, {undecided:,} undecided" if undecided else row.state
        words += ", silenced" if silence_of(group, silences) else ""
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


def _as_json(row: GroupRow, group: AlertGroup, covering: Silence | None) -> dict[str, Any]:
    held = group.acknowledged
    return {
        "id": group.alert_id,
        "state": row.state,
        "environment": group.environment,
        "task": group.task,
        "fingerprint": group.fingerprint,
        "unknown_names": None if group.unknown_names is None else group.unknown_names.values,
        "tasks": None if group.members is None else dict(group.members.largest),
        "conditions": {name: held.summary for name, held in group.conditions.items() if held.holds},
        "period": group.period,
        "severity": group.severity,
        "owner": group.owner,
        "letters": group.total,
        "first_at": group.first_at,
        "last_at": group.last_at,
        "reasons": dict(group.reasons),
        "acknowledged_by": held and held.by,
        "acknowledged_until": held and held.until,
        "silenced_until": covering and covering.until,
        "digested": group.digested,
        "posted": row.message_ts is not None,
        "channel": row.channel,
    }


def _notification_as_json(row: OutboxRow) -> dict[str, Any]:
    return {
        "at": row.created_at,
        "kind": row.kind,
        "reason": row.notice,
        "status": row.status,
        "channel": row.channel,
        "by": row.facts.get("by"),
    }


def _silence_as_json(one: Silence) -> dict[str, Any]:
    return {
        "id": one.id,
        "environment": one.environment,
        "task": one.task,
        "fingerprint": one.fingerprint,
        "queue": one.queue,
        "until": one.until,
        "reason": one.reason,
        "created_by": one.created_by,
        "created_at": one.created_at,
    }


alerts.add_command(simulate)
alerts.add_command(test)
