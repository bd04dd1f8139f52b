"""`guardrails alerts simulate`: what the present settings would have posted about the last days.

Owns the command line and what it shows; `alerts/simulation.py` plays the events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import click

from celery_guardrails import clock
from celery_guardrails.alerts.condition import Condition
from celery_guardrails.alerts.event import AlertEvent, read_event
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.alerts.render import headline
from celery_guardrails.alerts.rules import Rules
from celery_guardrails.alerts.simulation import Notified, Simulation
from celery_guardrails.alerts.sinks.build import build_sink
from celery_guardrails.cli.daemon.alerting import task_alerts
from celery_guardrails.cli.output import Column, emit_json, json_option, note, printer, progress, table
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.store import alert
from celery_guardrails.text import count_of, when

__all__ = ["simulate"]


@click.command(short_help="Show what the present settings would have posted.")
@click.option("--days", type=click.IntRange(1, 400), default=7, show_default=True, help="How far to look back.")
@json_option
@click.pass_context
def simulate(ctx: click.Context, days: int, as_json: bool) -> None:
    """Play the archive's dead letters of the last days once more, through the present settings.

    It shows each message that the channel would have got, and why, so that thresholds can be chosen on facts. Nothing
    is sent or changed. Acknowledgements and silences are not played.
    """
    project, now = project_of(ctx), clock.now()
    since = now - timedelta(days=days)
    with project.archive.read() as conn:
        total = alert.count_since(conn, since, project.settings.environment)
        with progress("simulate", total) as advance:
            events = _events(alert.events_since(conn, since, project.settings.environment), advance)
            played = Simulation(_rules_of(project), project.settings.alerts.group_by).play(events, now)
            loud = [each for each in played if each.intent.is_loud]
    if as_json:
        emit_json([_as_json(each) for each in loud])
        return
    rows = [(when(each.at), str(each.intent.notice), headline(each.group)) for each in loud]
    if rows:
        table(printer(), ["At", "Why", Column("Message", "flex")], rows)
    by_reason = Counter(str(each.intent.notice) for each in loud)
    listed = "".join(f", {number:,} {reason}" for reason, number in by_reason.most_common())
    note(f"{count_of(len(loud), 'message')} about {count_of(total, 'event')} in {count_of(days, 'day')}{listed}.")


def _events(payloads: Iterator[Mapping[str, Any]], advance: Callable[[int], None]) -> Iterator[AlertEvent | Condition]:
    for payload in payloads:
        advance(1)
        try:
            yield read_event(payload)
        except ValueError:
            continue  # no alert counted it either


def _rules_of(project: Project) -> Callable[[AlertGroup], Rules]:
    alerts = project.settings.alerts
    rules = Rules.from_settings(alerts, can_edit=build_sink(project.settings.slack).can_edit)
    asked = task_alerts(project.guardrails)
    return lambda group: rules.of_task(*asked(group.task))


def _as_json(each: Notified) -> dict[str, Any]:
    return {
        "at": each.at,
        "reason": str(each.intent.notice),
        "task": each.group.task,
        "environment": each.group.environment,
        "severity": each.group.severity,
        "letters": each.group.total,
        "headline": headline(each.group),
    }
