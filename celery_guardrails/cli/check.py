"""`guardrails check`: everything that is wrong with the settings and the policies, at once.

Wrong declarations are collected while the application is imported (`celery_guardrails.cli` switches this on). This
module adds the faults that only the whole application shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import click

from celery_guardrails.alerts.sinks.build import sink_faults
from celery_guardrails.app.argument_name import misnamed
from celery_guardrails.app.guardrails import BUILT_IN, Guardrails
from celery_guardrails.app.in_force import contradictions, is_guarded, task_faults
from celery_guardrails.cli import conversion
from celery_guardrails.cli.doctor.checks.catalogue import CHECKS
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Level, found_by
from celery_guardrails.cli.output import Column, emit_json, json_option, note, printer, say, table
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.errors import ConfigurationError, Fault, StoreError
from celery_guardrails.policy import faults as declarations
from celery_guardrails.policy.merge import match_pattern
from celery_guardrails.redaction.process import shown
from celery_guardrails.settings import Settings
from celery_guardrails.store.engine import open_store, sqlite_file
from celery_guardrails.text import count_of

__all__ = ["check"]


@click.command(short_help="Check the settings and every task's policy.")
@click.option(
    "--migrate",
    is_flag=True,
    help="For each task with retry options of Celery's, print the policy that says the same.",
)
@json_option
@click.pass_context
def check(ctx: click.Context, migrate: bool, as_json: bool) -> None:
    """Check the settings and every task's policy; list everything that is wrong, and then exit 1."""
    project = project_of(ctx)
    if migrate:
        declarations.stop()
        ctx.exit(conversion.show(project, as_json=as_json))
    found = _faults(project)
    if as_json:
        emit_json([_as_json(fault) for fault in found])
    elif found:
        _show(found)
    if not found:
        remarks = [*((Level.WARNING, remark) for remark in _remarks(project.guardrails)), *_pitfalls(project)]
        for level, remark in remarks:
            note(f"{'Notice' if level is Level.NOTICE else 'Warning'}: {shown(remark)}")
        if not as_json:
            _praise(project.guardrails, sum(level is not Level.NOTICE for level, _ in remarks))
    if found:
        ctx.exit(1)


def _faults(project: Project) -> list[Fault]:
    """Every fault, once: in declarations, in settings and in both together."""
    try:
        guardrails = project.guardrails
    finally:
        # From here on a fault is raised where it is found: there its task is known.
        declarations.stop()
    found = [*declarations.collected, *guardrails.faults()]
    try:
        settings = guardrails.settings
        if not found:
            found.extend(_misnamed(guardrails)[0])
            found.extend(_unusable(settings))
            found.extend(sink_faults(settings))
    except ConfigurationError:
        # `Guardrails.faults` stops at wrong settings; the tasks' own declarations can be checked without them.
        settings = Settings()
        for name, task in sorted(project.app.tasks.items()):
            if is_guarded(task) and not BUILT_IN.match(name):
                found.extend(task_faults(task, settings))
    return list(dict.fromkeys(found))


def _unusable(settings: Settings) -> Iterable[Fault]:
    """The fault of an archive that no guardian here could open. Connects to nothing, and makes no file."""
    if sqlite_file(settings.store.url) is not None:
        return  # the guardian and `doctor` look for its folder, on the machine where they run
    try:
        open_store(settings.store.url).close()
    except StoreError as exc:
        yield Fault("store.url", exc.url, exc.reason)


def _misnamed(guardrails: Guardrails) -> tuple[list[Fault], list[str]]:
    return misnamed((task, guardrails.policy_of(task)) for task in guardrails.guarded_tasks())


def _as_json(fault: Fault) -> dict[str, str | None]:
    ordered = asdict(fault)
    return {key: ordered[key] for key in ("task", "setting", "value", "problem", "suggestion")}


def _show(found: Sequence[Fault]) -> None:
    console = printer()
    rows = [
        (f.task or "(settings)", f.setting, f.value, f.problem + (f" ({f.suggestion})" if f.suggestion else ""))
        for f in found
    ]
    table(console, ["Task", "Setting", Column("Value", "fold"), Column("Problem", "fold")], rows)
    note(f"{len(found)} fault{'s' if len(found) != 1 else ''} found.")


def _remarks(guardrails: Guardrails) -> Iterable[str]:
    """What is allowed, but is probably a mistake."""
    names = [name for name in guardrails.app.tasks if not BUILT_IN.match(name)]
    settings = guardrails.settings
    for origin, patterns in (("guard", guardrails.patterns), ("policies", tuple(settings.policies))):
        for pattern in patterns:
            if not any(match_pattern({pattern: None}, name) for name in names):
                yield f"{origin}: the pattern {pattern} matches no task"
    guarded = {task.name for task in guardrails.guarded_tasks()}
    for pattern in settings.policies:
        matching = [name for name in names if match_pattern({pattern: None}, name)]
        if matching and not guarded.intersection(matching):
            yield f"policies: {pattern} matches only tasks that are not under guard, such as {matching[0]}"
    for task in guardrails.guarded_tasks():
        yield from contradictions(task, settings)
    yield from _misnamed(guardrails)[1]
    if not settings.enabled:
        yield "enabled is False: every guarded task behaves as a plain one"
    if not guarded:
        yield "no task is under guard: use base=GuardedTask, or the setting guard"


def _pitfalls(project: Project) -> Iterable[tuple[Level, str]]:
    """The pitfalls of this set-up that can be seen without a connection; `guardrails doctor` sees the others too."""
    context = Context(project, online=False)
    for one in CHECKS:
        if one.offline:
            for finding in found_by(one, context):
                if finding.level is not Level.OK:
                    yield finding.level, f"{one.name}: {finding.found}. Fix: {finding.fix}"


def _praise(guardrails: Guardrails, warnings: int) -> None:
    guarded = len(guardrails.guarded_tasks())
    plain = sum(not BUILT_IN.match(name) for name in guardrails.app.tasks) - guarded
    rest = f", {plain} not under guard" if plain else ""
    verdict = f"No faults, {count_of(warnings, 'warning')}" if warnings else "Settings and policies are right"
    say(f"{verdict}: {count_of(guarded, 'task')} under guard{rest}.")
