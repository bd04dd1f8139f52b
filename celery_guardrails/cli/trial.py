"""`guardrails alerts test`: whether an alert would arrive at each place where one may go.

Owns the command line and what it shows; `alerts/sinks/trial.py` posts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from celery_guardrails.alerts.sinks.sink import Message
from celery_guardrails.alerts.sinks.trial import Spot, Tried, spots, try_spots
from celery_guardrails.cli.output import emit_json, json_option, note, say
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.errors import nearest
from celery_guardrails.printable import one_line
from celery_guardrails.redaction.process import shown
from celery_guardrails.text import count_of

__all__ = ["test"]


@click.command(short_help="Send a test alert to each place where alerts go.")
@click.option("--sink", "name", metavar="NAME", help="Only to this place: `#payments`, `log`, or what the list shows.")
@json_option
@click.pass_context
def test(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """Send one test alert to each place where alerts may go, and say for each what came of it.

    The places are the usual one, those of the routes and of the escalation, and the fallback. Exit code 1: one of them
    did not take it.
    """
    project = project_of(ctx)
    chosen = _chosen(spots(project.settings), name)
    tried = try_spots(project.settings, chosen, _message(project))
    failed = sum(each.problem is not None for each in tried)
    if as_json:
        emit_json([_as_json(each) for each in tried])
    else:
        width = max(len(each.spot.name) for each in tried)
        for each in tried:
            say(_line(each, width))
        note(f"{count_of(len(tried), 'place')}, {failed or 'none'} failed.")
    if failed:
        ctx.exit(1)


def _message(project: Project) -> Message:
    environment = project.settings.environment
    words = f"Test alert from celery-guardrails ({environment}): alerts of {project.name} may be sent here."
    words = one_line(f"{words} Nothing is wrong.")
    return Message(text=words, plain=words)


def _chosen(found: Sequence[Spot], name: str | None) -> Sequence[Spot]:
    """The places that a person means; a setting that names a place will do, too."""
    if name is None:
        return found
    chosen = [spot for spot in found if name in (spot.name, *spot.settings)]
    if not chosen and name == "slack":
        chosen = [spot for spot in found[:1] if spot.name != "log"]
    if chosen:
        return chosen
    near = nearest(name, [spot.name for spot in found])
    hint = f"did you mean {near!r}?" if near else f"They go to: {', '.join(spot.name for spot in found)}."
    raise click.ClickException(f"No alert goes to {shown(name)!r}. {hint[0].upper()}{hint[1:]}")


def _line(each: Tried, width: int) -> str:
    said = "failed" if each.problem is not None else "same" if each.same_as else "sent"
    keys = ", ".join(each.spot.settings) or "no Slack is set"
    if each.same_as:
        keys += f": the same channel as {each.same_as}"
    if each.problem is not None:
        keys += f": {each.problem}. To do: {each.fix}"
    return f"{said:<6}  {each.spot.name:<{width}}  {one_line(shown(keys))}"


def _as_json(each: Tried) -> dict[str, Any]:
    return {
        "sink": each.spot.name,
        "settings": list(each.spot.settings),
        "sent": each.problem is None and each.same_as is None,
        "same_as": each.same_as,
        "channel": each.channel,
        "problem": each.problem,
        "fix": each.fix,
    }
