"""`guardrails status`: how things stand, on one screen."""

from __future__ import annotations

import time
from datetime import timedelta

import click
from rich.console import Console

from celery_guardrails import clock
from celery_guardrails.cli.output import emit_json, json_option, printer
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.cli.status.overview import as_json, overview
from celery_guardrails.cli.status.screen import show
from celery_guardrails.errors import StoreError
from celery_guardrails.redaction.process import shown

__all__ = ["status"]

_LONGEST = timedelta(days=90)


def _period(ctx: click.Context, param: click.Parameter, value: str) -> timedelta:
    try:
        found = clock.parse_duration(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx, param) from exc
    if not timedelta(minutes=1) <= found <= _LONGEST:
        raise click.BadParameter("figures reach from 1m to 90d back", ctx, param)
    return found


@click.command(short_help="How things stand: dead letters, retries, success rates, what waits for a decision.")
@click.option(
    "--since", "period", callback=_period, default="1h", show_default=True, help="Tasks' figures so far back."
)
@click.option(
    "--watch",
    type=click.FloatRange(min=0.5, max=3600),
    is_flag=False,
    flag_value=5.0,
    metavar="[SECONDS]",
    default=None,
    help="Show it anew every so many seconds, 5 if you give no number, until Ctrl-C.",
)
@json_option
@click.pass_context
def status(ctx: click.Context, period: timedelta, watch: float | None, as_json: bool) -> None:
    """Show how things stand: do dead letters rise, what drives the retries, what is overdue, what waits for a decision.

    The figures of tasks come from the workers, through a guardian, and are up to half a minute old.
    """
    project = project_of(ctx)
    if as_json and watch is not None:
        raise click.UsageError("Give --watch or --json, not both: --json prints one value.", ctx)
    if as_json:
        emit_json(_as_json(project, period))
    elif watch is None:
        show(printer(), overview(project, clock.now(), period), project)
    else:
        _watch(project, period, watch)


def _as_json(project: Project, period: timedelta) -> dict[str, object]:
    return as_json(overview(project, clock.now(), period))


def _watch(project: Project, period: timedelta, seconds: float) -> None:
    try:
        while True:
            _show_once(project, period)
            time.sleep(seconds)
    except KeyboardInterrupt:
        return


def _show_once(project: Project, period: timedelta) -> None:
    console: Console = printer()  # anew each time: somebody may have changed the width of the terminal
    try:
        found = overview(project, clock.now(), period)
    except StoreError as exc:
        if not exc.away:
            raise
        console.print(f"{shown(str(exc))}; trying again")
        return
    if console.is_terminal:
        console.clear()
    show(console, found, project)
