"""`guardrails policy`: which tasks are under guard, by which means, and what will happen when a task fails."""

from __future__ import annotations

from typing import Any

import click
from celery import Task
from rich.text import Text

from celery_guardrails.app.guardrails import BUILT_IN
from celery_guardrails.app.in_force import under_guard_by
from celery_guardrails.cli.output import Column, clean, emit_json, json_option, note, printer, table
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.cli.timeline import draw
from celery_guardrails.clock import shown
from celery_guardrails.errors import nearest
from celery_guardrails.policy.declaration import policy_fields
from celery_guardrails.policy.merge import Effective
from celery_guardrails.policy.policy import Policy
from celery_guardrails.policy.schedule import MOST_ROWS, PlannedAttempt, schedule
from celery_guardrails.redaction.process import shown_data

__all__ = ["policy"]

_CUT_ROWS = 10
"""How many attempts are drawn of a schedule that has more rows than can be planned."""
_BUILT_IN_ERRORS = "the built-in transient errors"


@click.command(short_help="Show what is in force for the tasks under guard.")
@click.argument("task", required=False)
@json_option
@click.pass_context
def policy(ctx: click.Context, task: str | None, as_json: bool) -> None:
    """List the tasks under guard; with TASK, its policy in force and its schedule of attempts."""
    project = project_of(ctx)
    tasks = {guarded.name: guarded for guarded in project.guardrails.guarded_tasks()}
    if task is None:
        _list(project, tasks, as_json)
    elif task in tasks:
        _show(project, tasks[task], as_json)
    else:
        raise click.ClickException(_unguarded(project, task, tasks))


def _list(project: Project, tasks: dict[str, Task], as_json: bool) -> None:
    effective = {name: project.guardrails.policy_of(task).policy for name, task in tasks.items()}
    if as_json:
        emit_json(
            [
                {"task": name, "guarded_by": under_guard_by(task), "policy": _declared(effective[name])}
                for name, task in tasks.items()
            ]
        )
        return
    rows = []
    for name, task in tasks.items():
        shown = _declared(effective[name])
        attempts, deadline = _value("max_attempts", shown), _value("deadline", shown)
        rows.append((name, attempts, deadline, _value("backoff", shown), shown["owner"] or "", under_guard_by(task)))
    if rows:
        guard, backoff = Column("Under guard by", "fold"), Column("Backoff", "fold")
        table(printer(), [Column("Task", "fold"), "Attempts", "Deadline", backoff, "Owner", guard], rows)
    plain = sum(not BUILT_IN.match(name) for name in project.app.tasks) - len(tasks)
    note(f"{len(tasks)} under guard, {plain} not. One of them in full: {project.typed('policy TASK')}")


def _declared(policy: Policy) -> dict[str, Any]:
    """The policy's fields as they may be shown: a runbook's address may have a password in it."""
    fields: dict[str, Any] = shown_data(policy_fields(policy))
    return fields


def _show(project: Project, task: Task, as_json: bool) -> None:
    effective: Effective = project.guardrails.policy_of(task)
    shown, planned = _declared(effective.policy), schedule(effective.policy)
    if as_json:
        emit_json(
            {
                "task": task.name,
                "guarded_by": under_guard_by(task),
                "policy": shown,
                "provenance": effective.provenance,
                "schedule": [_planned(attempt) for attempt in planned],
            }
        )
        return
    console = printer()
    console.print(Text.assemble((clean(task.name), "bold"), f", under guard by {under_guard_by(task)}\n"))
    rows = []
    for field, origin in effective.provenance.items():
        style = "dim" if origin == "default" else ""
        rows.append(tuple(Text(text, style) for text in (field, clean(_value(field, shown)), origin)))
    table(console, ["Field", Column("Value", "fold"), "From"], rows)
    _draw(console, effective, planned)


def _draw(console: Any, effective: Effective, planned: tuple[PlannedAttempt, ...]) -> None:
    deadline, most = effective.policy.deadline, effective.policy.max_attempts
    console.print("\nAttempts of a message that keeps failing, counted from its first publish")
    console.print("(sent with a countdown or an eta: from when it was due):\n")
    cut = len(planned) == MOST_ROWS and (most is None or most > MOST_ROWS)
    if cut:
        planned = planned[:_CUT_ROWS]
    rows = draw(planned, deadline, ascii_only=not console.encoding.startswith("utf"))
    columns = [Column(title, right=True) for title in ("Attempt", "Earliest", "Latest", "")]
    if any(remark for *_, remark in rows):
        table(console, [*columns, Column("", "fold")], [(*row[:4], row[4] or " ") for row in rows])
    else:
        table(console, columns, [row[:4] for row in rows])
    console.print()
    if cut:
        console.print(f"... and so on{'' if most is None else f', {most} attempts in all'}.")
    words = "No deadline." if deadline is None else f"Deadline: no attempt starts later than {shown(deadline)}."
    if not cut and deadline is not None and planned[-1].latest * 1.25 < deadline:
        words += f" The last attempt is long before that, {shown(planned[-1].latest)} at the latest."
    console.print(words)


def _planned(attempt: PlannedAttempt) -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "earliest": attempt.earliest.total_seconds(),
        "latest": attempt.latest.total_seconds(),
        "deadline": attempt.deadline,
    }


def _value(field: str, shown: dict[str, Any]) -> str:
    """A field as people read it."""
    value = shown[field]
    if value is None:
        return {"retry_on": _BUILT_IN_ERRORS, "max_attempts": "any number", "deadline": "none"}.get(field, "-")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_entry(entry)}" for key, entry in value.items()) or "-"
    return str(value)


def _entry(value: Any) -> str:
    """An entry of a field that is a dict; `False` in it switches something off."""
    if value is False:
        return "none"
    return ", ".join(f"{name} {each}" for name, each in value.items()) if isinstance(value, dict) else str(value)


def _unguarded(project: Project, name: str, tasks: dict[str, Task]) -> str:
    if name in project.app.tasks:
        return f"{name} is not under guard: use base=GuardedTask, or the setting guard."
    near = nearest(name, tasks)
    return f"No task is named {name}" + (f", did you mean {near}?" if near else ".")
