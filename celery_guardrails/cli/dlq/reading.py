"""`dlq list`, `dlq groups`, `dlq stats`: looking at many dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from rich.text import Text

from celery_guardrails import clock
from celery_guardrails.cli.dlq.selection import build_query, query_options
from celery_guardrails.cli.output import (
    Column,
    ago,
    clean,
    emit_json,
    json_option,
    limit_type,
    note,
    printer,
    short,
    stamp,
    table,
)
from celery_guardrails.cli.pending import note_unarchived
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.letters.ran import MAY_HAVE_RUN
from celery_guardrails.letters.record import SELF_TEST
from celery_guardrails.policy.decision import shown_reason
from celery_guardrails.recovery import search
from celery_guardrails.store.letter import GROUPINGS
from celery_guardrails.store.record import Group, LetterSummary, State, Stats
from celery_guardrails.text import count_of

__all__ = ["groups", "list_", "show_letters", "state_text", "stats"]

_STYLES = {State.DEAD: "red", State.REQUEUED: "yellow", State.RECOVERED: "green", State.DISCARDED: "dim"}


@click.command("list")
@query_options
@click.option("--limit", type=limit_type, default=50, show_default=True, help="At most so many.")
@json_option
@click.pass_context
def list_(
    ctx: click.Context,
    query: tuple[str, ...],
    task: str | None,
    state: str | None,
    reason: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List dead letters, the newest first."""
    project = project_of(ctx)
    wanted = build_query(project, query, task=task, state=state, reason=reason)
    page = search.search(project.archive, wanted, limit)
    if as_json:
        emit_json([_as_json(letter) for letter in page.letters])
    else:
        show_letters(page.letters, clock.now())
        total = search.count(project.archive, wanted) if page.next else len(page.letters)
        shown = f", the newest {len(page.letters):,} shown (--limit)" if page.next else ""
        more = f". One of them in full: {project.typed('dlq show ID')}" if page.letters else "."
        note(f"{count_of(total, 'dead letter')} found{shown}{more}" if page.letters else _none_found(project))
    note_unarchived(project)


def _none_found(project: Project) -> str:
    """The note if no letter is found."""
    total = search.count(project.archive)
    if not total:
        return "No dead letter is in the archive."
    return f"No dead letter matches; the archive holds {total:,}. To list them: {project.typed('dlq list')}"


@click.command()
@query_options
@click.option(
    "--by",
    type=click.Choice([*GROUPINGS]),
    default="fingerprint",
    show_default=True,
    help="fingerprint: task and error.",
)
@click.option("--limit", type=limit_type, default=50, show_default=True, help="At most so many groups.")
@json_option
@click.pass_context
def groups(
    ctx: click.Context,
    query: tuple[str, ...],
    task: str | None,
    state: str | None,
    reason: str | None,
    by: str,
    limit: int,
    as_json: bool,
) -> None:
    """Show what dead letters have in common, the largest group first."""
    project = project_of(ctx)
    found = search.groups(
        project.archive, build_query(project, query, task=task, state=state, reason=reason), by, limit
    )
    if as_json:
        emit_json([_group_as_json(group) for group in found])
    else:
        _groups(found, by, clock.now())
        more = f". A whole group: {project.typed('dlq list fingerprint:...')}" if by == "fingerprint" and found else "."
        note(f"{count_of(len(found), 'group')}{more}")
    note_unarchived(project)


@click.command(short_help="Count dead letters.")
@query_options
@json_option
@click.pass_context
def stats(
    ctx: click.Context, query: tuple[str, ...], task: str | None, state: str | None, reason: str | None, as_json: bool
) -> None:
    """Count dead letters by state, task and reason.

    The letters of `doctor --self-test` are left out, unless a term or --task names a task.
    """
    project = project_of(ctx)
    wanted = build_query(project, query, task=task, state=state, reason=reason)
    if not any(term.field == "task" for term in wanted.terms):
        wanted = wanted.with_term("task", SELF_TEST, negated=True)
    found = search.stats(project.archive, wanted)
    if as_json:
        emit_json(_stats_as_json(found))
    else:
        _stats(found, clock.now())
    note_unarchived(project)


def state_text(state: State, regressed: bool = False) -> Text:
    """A state in its colour; `again` marks work that died again after a requeue."""
    return Text(f"{state} again" if regressed and state is State.DEAD else str(state), _STYLES[state])


def show_letters(letters: Sequence[LetterSummary], now: datetime) -> None:
    """Print one line for each of these letters."""
    if not letters:
        return
    console = printer()
    rows = [
        (
            short(letter.id, console),
            state_text(letter.state, letter.regressed),
            ago(letter.died_at, now),
            letter.task,
            shown_reason(letter.reason) + (f", {MAY_HAVE_RUN}" if letter.may_have_run else ""),
            f"{_name(letter.error)}: {clean(letter.message)}",
        )
        for letter in letters
    ]
    table(
        console,
        ["Id", "State", "Died", Column("Task", "fold"), Column("Reason", "fold"), Column("Error", "flex")],
        rows,
    )


def _groups(found: list[Group], by: str, now: datetime) -> None:
    if not found:
        return
    console = printer()
    keys = [name for name in GROUPINGS[by] if name != "error"]
    titles = [Column(name.capitalize(), "fold" if name == "task" else "fixed") for name in keys]
    rows: list[Sequence[str | Text]] = []
    for group in found:
        key = [group.key[name] for name in keys]
        error = f"{_name(group.error)}: {clean(group.message)}"
        rows.append((f"{group.count:,}", _states(group.states), ago(group.last_died_at, now), *key, error))
    table(console, [Column("Count", right=True), "States", "Last died", *titles, Column("Last error", "flex")], rows)


def _stats(found: Stats, now: datetime) -> None:
    console = printer()
    oldest = found.oldest_dead_at
    console.print(f"{count_of(found.total, 'dead letter')} in the archive.")
    if oldest is not None:
        console.print(f"The oldest that needs a decision died {ago(oldest, now)}, at {stamp(oldest)}.")
    for title, counts in (
        ("State", found.by_state),
        ("Reason", {shown_reason(name): count for name, count in found.by_reason.items()}),
        ("Task", found.by_task),
    ):
        if counts:
            console.print()
            table(
                console,
                [Column(title, "fold"), Column("Count", right=True)],
                [(k, f"{n:,}") for k, n in counts.items()],
            )


def _states(states: Mapping[str, int]) -> Text:
    """`3 dead, 1 recovered`, in the order of a letter's life."""
    parts = [Text(f"{states[state.value]:,} {state}", _STYLES[state]) for state in State if states.get(state.value)]
    return Text(", ").join(parts)


def _name(error: str) -> str:
    """The exception's class, without its module: people know it by that."""
    return error.rpartition(".")[2]


def _as_json(letter: LetterSummary) -> dict[str, Any]:
    return {
        "id": letter.id,
        "task": letter.task,
        "task_id": letter.task_id,
        "state": letter.state.value,
        "reason": letter.reason,
        "generation": letter.generation,
        "error": {
            "type": letter.error,
            "message": letter.message,
            "category": letter.category,
            "fingerprint": letter.fingerprint,
        },
        "queue": letter.queue,
        "published_at": letter.published_at,
        "died_at": letter.died_at,
        "owner": letter.owner,
        "environment": letter.environment,
        "worker": letter.worker,
        "version": letter.version,
        "attempt_count": letter.attempts,
        "regressed": letter.regressed,
        "may_have_run": letter.may_have_run,
        "severity": letter.severity,
        "requeued_at": letter.requeued_at,
        "requeued_by": letter.requeued_by,
        "requeue_reason": letter.requeue_reason,
        "resolved_at": letter.resolved_at,
    }


def _group_as_json(group: Group) -> dict[str, Any]:
    return {
        **group.key,
        "count": group.count,
        "states": dict(group.states),
        "first_died_at": group.first_died_at,
        "last_died_at": group.last_died_at,
        "error": {"type": group.error, "message": group.message},
        "sample_id": group.sample_id,
        "regressed": group.regressed,
    }


def _stats_as_json(found: Stats) -> dict[str, Any]:
    return {
        "total": found.total,
        "by_state": dict(found.by_state),
        "by_task": dict(found.by_task),
        "by_reason": dict(found.by_reason),
        "oldest_dead_at": found.oldest_dead_at,
    }
