"""`guardrails doctor`: is everything that guardrails needs there, and which pitfalls has this set-up?

Owns how findings are shown. The checks are in `checks/`, one module a subject; the self-test is in `self_test/`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from celery_guardrails.alerts.sinks.build import build_sink
from celery_guardrails.alerts.sinks.sink import Message
from celery_guardrails.cli.daemon.assembly import alerts_go_to
from celery_guardrails.cli.doctor.checks.catalogue import CHECKS
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, Level, fault, fine, found_by
from celery_guardrails.cli.output import Column, emit_json, json_option, note, printer, say, table
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.clock import parse_duration, shown
from celery_guardrails.errors import ConfigurationError, SinkError
from celery_guardrails.text import count_of, one_line
from celery_guardrails.transport.address import address_faults

__all__ = ["doctor"]

_STYLES = {Level.OK: "green", Level.NOTICE: "cyan", Level.WARNING: "yellow", Level.FAULT: "bold red"}

_NARROW = 30


@dataclass(frozen=True, slots=True)
class Row:
    """A finding and the name of its check; for a step of the self-test also its seconds."""

    name: str
    finding: Finding
    seconds: float | None = None


@click.command(short_help="Check what guardrails needs, and name this set-up's pitfalls.")
@click.option(
    "--self-test", is_flag=True, help="Also send a task through failing, dead-lettering, archive and requeue."
)
@click.option(
    "--timeout", metavar="DURATION", default="60s", show_default=True, help="How long the self-test may take."
)
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings, too.")
@click.option("--alert", is_flag=True, help="With --self-test: also send a test alert.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, self_test: bool, timeout: str, strict: bool, alert: bool, as_json: bool) -> None:
    """Check broker, dead-letter queue, archive, guardian and alerts, and name the pitfalls of this set-up.

    --self-test uses the real broker, dead-letter queue and archive, with its own queue and its own worker, and alerts
    nobody. The exit code is 1 if there is a fault, with --strict also if there is a warning, else 0.
    """
    if alert and not self_test:
        raise click.UsageError("--alert needs --self-test.", ctx)
    seconds = _seconds(ctx, timeout)
    project = project_of(ctx)
    with _run_checks(project) as (context, rows):
        if not as_json:
            _show(rows)
        if self_test and context is not None:
            rows += _run_self_test(context, seconds, alert, show=not as_json)
    if as_json:
        emit_json([_as_json(row) for row in rows])
    else:
        note(_summary(rows))
    failing = {Level.FAULT, Level.WARNING} if strict else {Level.FAULT}
    if any(row.finding.level in failing for row in rows):
        ctx.exit(1)


def _seconds(ctx: click.Context, timeout: str) -> float:
    try:
        return parse_duration(float(timeout) if timeout.replace(".", "", 1).isdigit() else timeout).total_seconds()
    except ValueError as exc:
        raise click.UsageError(f"--timeout: {exc}", ctx) from exc


@contextmanager
def _run_checks(project: Project) -> Iterator[tuple[Context | None, list[Row]]]:
    """Run every check. The context is `None` where the settings are too wrong to check anything."""
    try:
        context = Context(project)
        if unreadable := address_faults(project.app):
            raise ConfigurationError(unreadable)
    except ConfigurationError as exc:
        see = f"see: {project.typed('check')}"
        yield None, [Row("settings", fault(str(found), see)) for found in exc.faults]
        return
    try:
        yield context, [Row(check.name, finding) for check in CHECKS for finding in found_by(check, context)]
    finally:
        context.close()


def _run_self_test(context: Context, seconds: float, alert: bool, *, show: bool) -> list[Row]:
    """Run the self-test, and show each step when it ends."""
    from celery_guardrails.cli.doctor.self_test.steps import SelfTest, Step

    rows: list[Row] = []
    if show:
        say("\nSelf-test")

    def add(step: Step) -> None:
        rows.append(Row(f"self-test: {step.name}", step.finding, round(step.seconds, 3)))
        if show:
            _show_step(step.name, step.finding, step.seconds)

    if SelfTest(context, seconds, add).run() and alert:
        started = time.monotonic()
        finding = _send_test_alert(context)
        add(Step("alerted", finding, time.monotonic() - started))
    return rows


def _send_test_alert(context: Context) -> Finding:
    settings = context.settings
    words = (
        f"Test alert from celery-guardrails ({settings.environment}): the self-test of {context.project.name} passed."
    )
    try:
        build_sink(settings.slack).post(Message(text=words, plain=words))
    except SinkError as exc:
        return fault(f"the test alert did not arrive: {exc.reason}", f"see: {context.project.typed('alerts test')}")
    return fine(f"a test alert, marked as one, was sent to {alerts_go_to(settings)}")


def _show_step(name: str, finding: Finding, seconds: float) -> None:
    console = printer()
    took = shown(timedelta(seconds=seconds))
    line = Text.assemble((f"{finding.level.value:<9}", _STYLES[finding.level]), f"{name:<15}{took:>8}  ")
    hanging = " " * line.cell_len
    _hang(console, line, Text(one_line(finding.found)))
    if finding.fix:
        _hang(console, Text(hanging), Text(f"-> {one_line(finding.fix)}", "dim"))


def _hang(console: Console, head: Text, text: Text) -> None:
    """Print a text behind a head, its further lines below its first."""
    for number, part in enumerate(text.wrap(console, max(_NARROW, console.width - head.cell_len))):
        part.rstrip()
        console.print(Text.assemble(head if number == 0 else " " * head.cell_len, part), soft_wrap=True)


def _show(rows: Sequence[Row]) -> None:
    shown: list[Sequence[str | Text]] = []
    for row in rows:
        finding = row.finding
        shown.append((Text(finding.level.value, _STYLES[finding.level]), row.name, Text(one_line(finding.found))))
        if finding.fix:
            shown.append((Text(), Text(), Text(f"-> {one_line(finding.fix)}", "dim")))
    table(printer(), ["", "Check", Column("Found", "fold")], shown)


def _summary(rows: Sequence[Row]) -> str:
    levels = [row.finding.level for row in rows]
    faults, warnings = levels.count(Level.FAULT), levels.count(Level.WARNING)
    notices = f", {count_of(count, 'notice')}" if (count := levels.count(Level.NOTICE)) else ""
    if not faults and not warnings:
        return f"{count_of(len(rows), 'check')}, all well{notices}."
    return f"{count_of(faults, 'fault')}, {count_of(warnings, 'warning')}{notices}, {levels.count(Level.OK)} ok."


def _as_json(row: Row) -> dict[str, Any]:
    finding = row.finding
    return {
        "check": row.name,
        "level": finding.level.value,
        "found": finding.found,
        "fix": finding.fix or None,
        "seconds": row.seconds,
    }
