"""`guardrails check --migrate`: for each task with retry options of Celery's, the policy that says the same.

Owns how it is shown. What a task is converted to is in `app/conversion.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from celery_guardrails.app.conversion import Conversion, converted, is_early_today
from celery_guardrails.app.guardrails import BUILT_IN
from celery_guardrails.app.in_force import is_guarded
from celery_guardrails.cli.output import clean, emit_json, note, printer
from celery_guardrails.cli.project import Project
from celery_guardrails.errors import ConfigurationError
from celery_guardrails.redaction.process import shown_data
from celery_guardrails.text import count_of

__all__ = ["show"]

_WIDEST = 100
_UNCHANGED = (
    'The tasks also work unchanged: "guard": ["*"] in the settings puts them under guard, and their options still hold.'
)
_EARLY = (
    "{} acknowledged early today, which is Celery's default, and late under guard: after a crash of the worker such a "
    'task runs again. Where it must not run twice, add acks="early".'
)


@dataclass
class _Tasks:
    """The application's tasks, by what is to be done; `early`: how many acknowledge early by Celery's default."""

    moved: list[Conversion] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    early: int = 0
    guarded: int = 0
    plain: int = 0


def show(project: Project, *, as_json: bool) -> int:
    """Print what to write for each task; returns the exit code: 1 if a task's options cannot be read as a policy."""
    tasks = _look(project)
    if as_json:
        emit_json([_as_json(one) for one in tasks.moved])
    else:
        console = printer()
        for one in tasks.moved:
            for line in _lines(one):
                console.print(line, soft_wrap=True)
    for problem in tasks.wrong:
        note(f"Error: {problem}")
    _sum_up(tasks)
    return 1 if tasks.wrong else 0


def _look(project: Project) -> _Tasks:
    found, settings = _Tasks(), project.guardrails.settings
    for name, task in sorted(project.app.tasks.items()):
        if BUILT_IN.match(name):
            continue
        guarded = is_guarded(task)
        found.early += is_early_today(task)
        try:
            one = converted(task, settings)
        except ConfigurationError as exc:
            found.wrong += [f"{name}: {fault.setting} {fault.problem}" for fault in exc.faults]
            continue
        if one is not None:
            found.moved.append(one)
        elif guarded:
            found.guarded += 1
        else:
            found.plain += 1
    return found


def _lines(one: Conversion) -> Iterator[Text]:
    """One task as people read it: its name, what to write, what to leave out, what will be different."""
    yield Text.assemble((clean(one.task), "bold"), ", under guard already" if one.guarded else "")
    head, tail = ("policy=Policy(", ")") if one.guarded else ("base=GuardedTask, policy=Policy(", ")")
    arguments = [clean(argument) for argument in one.arguments]
    if one.arguments:
        line = f"  {head}{', '.join(arguments)}{tail}"
        lines = (
            [line] if len(line) <= _WIDEST else [f"  {head}", *(f"      {each}," for each in arguments), f"  {tail}"]
        )
        yield from (Text(each, "green") for each in lines)
    if one.leave_out:
        yield Text(f"  leave out: {', '.join(one.leave_out)}")
    for remark in one.notes:
        yield Text(f"  note: {clean(remark)}")
    yield Text("")


def _sum_up(tasks: _Tasks) -> None:
    note(
        f"{count_of(len(tasks.moved), 'task has', 'tasks have')} retry options of Celery's; {tasks.plain:,} without "
        f"such options, for which base=GuardedTask is enough; {tasks.guarded:,} under guard already."
    )
    if tasks.plain or not all(one.guarded for one in tasks.moved):
        note(_UNCHANGED)
    if any("deadline=None" in one.arguments for one in tasks.moved):
        note("deadline=None is what Celery does. Without it, no attempt starts later than 2h after the first publish.")
    if tasks.early:
        note(_EARLY.format(count_of(tasks.early, "task is", "tasks are")))


def _as_json(one: Conversion) -> dict[str, Any]:
    return {
        "task": one.task,
        "guarded": one.guarded,
        "acks_today": "early" if one.early else "late",
        "options": shown_data(dict(one.options)),
        "policy": f"Policy({', '.join(one.arguments)})" if one.arguments else None,
        "leave_out": list(one.leave_out),
        "notes": list(one.notes),
    }
