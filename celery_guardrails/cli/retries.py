"""`guardrails retries`: the tasks that wait in the broker to run later, and deciding to run them now or not at all.

Owns which entries a command line means, and how they are shown. `transport/waiting/` owns the waiting itself, and
`cli/cancel.py` the dead letter of a cancelled task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import click

from celery_guardrails import clock
from celery_guardrails.cli.actor import given_reason, whoever_runs_this
from celery_guardrails.cli.group import LazyGroup
from celery_guardrails.cli.output import (
    Column,
    clean,
    emit_json,
    json_option,
    limit_type,
    note,
    printer,
    progress,
    say,
    span,
    table,
)
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.errors import PublishError
from celery_guardrails.letters.header import read_header
from celery_guardrails.policy import Attempt, match_pattern
from celery_guardrails.redaction.process import shown
from celery_guardrails.text import count_of
from celery_guardrails.transport.waiting.protocol import WaitingTask

__all__ = ["retries"]

_PAGE = 500
_SHORTEST = 8
_CANDIDATES = 5
_WIDE = 100
"""Columns from which on the queue is shown too."""


@dataclass
class _Outcome:
    """What became of the entries that were meant; `done`: the ids of those that succeeded."""

    done: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def refuse(self, given: str, problem: str) -> None:
        note(f"{given}: {problem}")
        self.failed.append({"id": given, "problem": problem})


@click.group(cls=LazyGroup, short_help="See what waits to run later; run it now, or cancel it.")
def retries() -> None:
    """See the tasks that wait to run later, run them now, or decide that they will not run."""


@retries.command("list", short_help="List what waits in the broker, the next due first.")
@click.option("--task", metavar="NAME", help="Only of this task; * stands for anything.")
@click.option("--limit", type=limit_type, default=50, show_default=True, help="At most so many.")
@json_option
@click.pass_context
def list_(ctx: click.Context, task: str | None, limit: int, as_json: bool) -> None:
    """List retries and delayed tasks that wait in the broker, the next due first."""
    project = project_of(ctx)
    found: list[WaitingTask] = []
    more = False
    for waiting in _entries(project, task):
        if more := len(found) == limit:
            break
        found.append(waiting)
    now = clock.now()
    if as_json:
        emit_json([_as_json(waiting, now) for waiting in found])
        return
    _list(found, now)
    shown = ", the next due shown (--limit)" if more else ""
    least = "At least " if more else ""
    if not found:
        note("Nothing waits: no retry, and no task with a countdown or an eta.")
    else:
        note(f"{least}{count_of(len(found), 'waiting task')}{shown}.")


@retries.command("run-now", short_help="Put waiting tasks into their queues at once.")
@click.argument("ids", nargs=-1, metavar="ID...")
@click.option("--task", metavar="NAME", help="All of this task that wait now; * stands for anything.")
@json_option
@click.pass_context
def run_now(ctx: click.Context, ids: tuple[str, ...], task: str | None, as_json: bool) -> None:
    """Put waiting tasks into their queues at once: by ID (of the entry or the task), or all of a task."""
    if bool(ids) == (task is not None):
        raise click.UsageError("Give ids or --task, one of the two.", ctx)
    project = project_of(ctx)
    outcome = _Outcome()
    if task is not None:
        # All ids first: entries that are moved away would shift the pages.
        meant = [waiting.id for waiting in _entries(project, task)]
        with progress("running now", len(meant)) as advance:
            moved = 0
            for start in range(0, len(meant), _PAGE):
                batch = meant[start : start + _PAGE]
                moved += project.guardrails.waiting.run_now(batch)
                advance(len(batch))
    else:
        meant, moved = [*dict.fromkeys(ids)], _each(project, ids, outcome, lambda waiting: _run(project, waiting))
    if as_json:
        emit_json({"action": "run-now", "matched": len(meant), "moved": moved, "failed": outcome.failed})
    else:
        say(f"Put {count_of(moved, 'waiting task')} into {'its queue' if moved == 1 else 'their queues'}.")
    if outcome.failed:
        ctx.exit(1)


@retries.command(short_help="Decide that waiting tasks will not run.")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--reason", required=True, callback=given_reason, help="Why; the dead letters keep it.")
@click.option("--by", metavar="WHO", default=None, help="Who does it. Default user@host.")
@json_option
@click.pass_context
def cancel(ctx: click.Context, ids: tuple[str, ...], reason: str, by: str | None, as_json: bool) -> None:
    """Decide that waiting tasks will not run: each becomes a dead letter, which can be requeued."""
    from celery_guardrails.cli.cancel import cancel as cancel_waiting

    project = project_of(ctx)
    actor = by or whoever_runs_this()
    outcome = _Outcome()
    letters: list[str] = []

    def act(waiting: WaitingTask) -> str | None:
        letter = cancel_waiting(project.guardrails, waiting, actor, reason, clock.now())
        if letter is None:
            return "it had become due and runs; discard its dead letter, whose reason is cancelled"
        letters.append(letter.id)
        return None

    done = _each(project, ids, outcome, act)
    if as_json:
        emit_json({"action": "cancel", "done": outcome.done, "letters": letters, "failed": outcome.failed})
    else:
        where = f" See {'it' if done == 1 else 'them'}: {project.typed('dlq list reason:cancelled')}" if done else ""
        say(f"Cancelled {count_of(done, 'waiting task')}.{where}")
    if outcome.failed:
        ctx.exit(1)


def _run(project: Project, waiting: WaitingTask) -> str | None:
    return None if project.guardrails.waiting.run_now([waiting.id]) else "it no longer waits: it runs already"


def _each(project: Project, ids: Sequence[str], outcome: _Outcome, act: Callable[[WaitingTask], str | None]) -> int:
    """Call `act` for each entry that is meant; it returns a problem or `None`. Returns how many calls had none."""
    for given in dict.fromkeys(ids):
        found = _meant(project, given)
        if len(found) != 1:
            outcome.refuse(given, _unclear(found))
            continue
        try:
            problem = act(found[0])
        except PublishError as exc:
            problem = f"{exc}; the task still waits"
        if problem is None:
            outcome.done.append(found[0].id)
        else:
            outcome.refuse(given, problem)
    return len(outcome.done)


def _meant(project: Project, given: str) -> list[WaitingTask]:
    """The entries that an id means: the entry with exactly this id, else all whose id or task id begins with it."""
    found = project.guardrails.waiting.find(given) if given.strip() else []
    exact = [waiting for waiting in found if waiting.id == given]
    return exact or list(found)


def _unclear(found: Sequence[WaitingTask]) -> str:
    if not found:
        return "nothing waits under this id: it runs or has run, or it never waited"
    ids = _unique([waiting.id for waiting in found])
    named = [f"{id_} ({waiting.task})" for id_, waiting in zip(ids, found, strict=True)][:_CANDIDATES]
    rest = f" and {len(found) - _CANDIDATES:,} more" if len(found) > _CANDIDATES else ""
    return f"{len(found):,} ids begin with this: {', '.join(named)}{rest}"


def _entries(project: Project, task: str | None) -> Iterator[WaitingTask]:
    """The entries that wait, of one task or of all, read page by page."""
    after: str | None = None
    while page := project.guardrails.waiting.entries(_PAGE, after):
        for waiting in page:
            if task is None or match_pattern({task: None}, waiting.task):
                yield waiting
        if len(page) < _PAGE:
            return
        after = page[-1].id


def _list(found: Sequence[WaitingTask], now: datetime) -> None:
    if not found:
        return
    console = printer()
    whole = [waiting.id for waiting in found]
    ids = _unique(whole) if console.is_terminal else whole
    wide = not console.is_terminal or console.width >= _WIDE
    rows = [
        (
            id_,
            _due(waiting.due_at, now),
            str(waiting.attempt),
            waiting.task,
            waiting.task_id[:_SHORTEST] if console.is_terminal else waiting.task_id,
            *([waiting.queue] if wide else []),
            _why(waiting),
        )
        for id_, waiting in zip(ids, found, strict=True)
    ]
    heads: list[Column | str] = ["Id", "Due (UTC)", Column("#", right=True), Column("Task", "fold"), "Task id"]
    heads += [Column("Queue", "fold")] if wide else []
    table(console, [*heads, Column("Waits because", "flex")], rows)


def _unique(ids: Sequence[str]) -> list[str]:
    """The beginnings of ids: as short as they can be while no two are equal, at least 8 characters."""
    length = _SHORTEST
    while len({id_[:length] for id_ in ids}) < len(set(ids)):
        length += 1
    return [id_[:length] for id_ in ids]


def _due(due_at: datetime, now: datetime) -> str:
    """`14:02:05 (in 3m)`, or `11-23 14:02 (in 20h)` on another day; UTC."""
    due, today = due_at.astimezone(timezone.utc), now.astimezone(timezone.utc).date()
    at = due.strftime("%H:%M:%S" if due.date() == today else "%m-%d %H:%M")
    return f"{at} (in {span(due_at - now)})" if due_at > now else f"{at} (now)"


def _last(waiting: WaitingTask) -> Attempt | None:
    attempts = read_header(waiting.envelope.headers).attempts
    return attempts[-1] if attempts else None


def _why(waiting: WaitingTask) -> str:
    last = _last(waiting)
    if last is None:
        return "countdown or eta" if waiting.attempt == 1 else ""
    return f"{last.error.rpartition('.')[2]}: {clean(shown(last.message))}"


def _as_json(waiting: WaitingTask, now: datetime) -> dict[str, Any]:
    last = _last(waiting)
    return {
        "id": waiting.id,
        "task": waiting.task,
        "task_id": waiting.task_id,
        "queue": waiting.queue,
        "attempt": waiting.attempt,
        "due_at": waiting.due_at,
        "due_in": max(0.0, round((waiting.due_at - now).total_seconds(), 3)),
        "last_error": None
        if last is None
        else {"type": last.error, "message": shown(last.message), "at": last.ended_at},
    }
