"""`dlq show ID`: one dead letter, with everything that a person at 3 a.m. needs to decide what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from celery_guardrails import clock
from celery_guardrails.app.in_force import is_guarded
from celery_guardrails.cli.dlq.reading import show_letters, state_text
from celery_guardrails.cli.output import Column, ago, clean, emit_json, json_option, note, printer, stamp, table
from celery_guardrails.cli.pending import note_unarchived
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.command import query_term
from celery_guardrails.errors import DeadLetterAmbiguous
from celery_guardrails.letters.ran import MAY_HAVE_RUN, why_may_have_run
from celery_guardrails.letters.record import FailedAttempt, LetterFailure, Named, values_of
from celery_guardrails.policy.decision import shown_reason
from celery_guardrails.printable import same_length
from celery_guardrails.recovery import search
from celery_guardrails.store import audit
from celery_guardrails.store.audit import AuditEntry
from celery_guardrails.store.claim import Doubt
from celery_guardrails.store.filter import Query, Term
from celery_guardrails.store.record import ArchivedLetter, Death, State

__all__ = ["show"]

_ENTRIES = 50
_LISTED = 20
_REASON = '--reason "..."'


@click.command(short_help="Show one dead letter in full.")
@click.argument("letter_id", metavar="ID")
@json_option
@click.pass_context
def show(ctx: click.Context, letter_id: str, as_json: bool) -> None:
    """Show one dead letter in full: ID is its own, or Celery's task id; the beginning is enough if it is unique."""
    project = project_of(ctx)
    try:
        found = search.get(project.archive, letter_id)
    except DeadLetterAmbiguous as exc:
        if exc.of_one_task_id and not as_json:
            _choices(project, letter_id.strip())
        raise
    with project.archive.read() as conn:
        entries = audit.entries(conn, target=found.summary.id, limit=_ENTRIES)[::-1]
    deaths = search.deaths(project.archive, found.summary.id)
    if as_json:
        emit_json(_as_json(found, entries, deaths))
    else:
        _show(project, found, entries, deaths)
    note_unarchived(project)


def _choices(project: Project, task_id: str) -> None:
    """List the letters that share a task id, so that the reader can choose one."""
    page = search.search(project.archive, Query((Term("task_id", task_id),)), _LISTED)
    show_letters(page.letters, clock.now())
    if page.next:
        note(
            f"The newest {_LISTED} are shown; all of them: {project.typed('dlq list', query_term('task_id', task_id))}"
        )


def _show(project: Project, found: ArchivedLetter, entries: Sequence[AuditEntry], deaths: Sequence[Death]) -> None:
    console, now = printer(), clock.now()
    summary, letter = found.summary, found.letter
    state = state_text(summary.state, summary.regressed)
    reason = shown_reason(summary.reason)
    past = f", {reason}" if summary.state is State.DEAD else f" (it had died: {reason})"
    verb = " has " if summary.state is State.RECOVERED else " is "
    console.print(Text.assemble((clean(summary.task), "bold"), verb, state, past))
    if letter.explanation:
        console.print(clean(letter.explanation))
    if summary.may_have_run:
        console.print(Text(f"It {MAY_HAVE_RUN}: {why_may_have_run(summary.reason)}.", "yellow"))
    console.print()
    console.print(Text.assemble((f"{clean(letter.failure.type)}: ", "bold"), clean(letter.failure.message)))
    console.print()
    _facts(console, found, now)
    _attempts(console, letter.attempts, letter.failure)
    _deaths(console, deaths, now)
    if letter.failure.traceback.strip():
        _title(console, "Traceback")
        for line in letter.failure.traceback.rstrip().splitlines():
            console.print("  " + _printable(line), soft_wrap=True)
    _trail(console, entries, now)
    _next(console, project, found, entries)


def _facts(console: Console, found: ArchivedLetter, now: datetime) -> None:
    summary, letter = found.summary, found.letter
    cut = "  (cut)" if letter.preview.truncated else ""
    requeued = f"{_when(summary.requeued_at, now)} by {summary.requeued_by}: {summary.requeue_reason}"
    facts = (
        ("Id", summary.id),
        ("Task id", summary.task_id),
        ("Root id", summary.root_id if summary.root_id != summary.task_id else ""),
        ("Died", _when(summary.died_at, now)),
        ("First failed", _when(summary.first_failed_at, now)),
        ("Published", _when(summary.published_at, now)),
        ("Args", f"{letter.preview.args}{cut}"),
        ("Kwargs", f"{letter.preview.kwargs}{cut}"),
        ("Affected", _pairs(letter.affected)),
        ("Correlation", _pairs(letter.correlation)),
        ("Queue", summary.queue),
        ("Worker", summary.worker),
        ("Environment", summary.environment),
        ("Release", summary.version),
        ("Category", f"{summary.category}, fingerprint {summary.fingerprint}"),
        ("Severity", summary.severity),
        ("Owner", summary.owner),
        ("Runbook", letter.runbook),
        (
            "Put back",
            f"{summary.generation} time{'s' if summary.generation != 1 else ''}" if summary.generation else "",
        ),
        ("Requeued", requeued if summary.requeued_at else ""),
        ("Resolved", _when(summary.resolved_at, now) if summary.resolved_at else ""),
    )
    for name, value in facts:
        if value:
            line = Text.assemble((f"{name:<14}", "dim"), clean(value))
            console.print(line, soft_wrap=True)


def _attempts(console: Console, attempts: Sequence[FailedAttempt], last: LetterFailure) -> None:
    if not attempts:
        return
    _title(console, "Attempts")
    again = any(attempt.generation for attempt in attempts)
    rows = []
    for attempt in attempts:
        number = f"{attempt.number}" + (f" of requeue {attempt.generation}" if again and attempt.generation else "")
        lasted = _lasted(attempt.started_at, attempt.ended_at)
        waited = clock.shown(timedelta(seconds=attempt.delay)) if attempt.delay is not None else ""
        error = f"{attempt.error.rpartition('.')[2]}: {clean(attempt.message)}"
        if (attempt.error, attempt.message) == (last.type, last.message):
            error = "the error above"
        rows.append((number, stamp(attempt.ended_at), lasted, waited, attempt.worker, error))
    table(console, ["#", "Failed at", "Ran", "Waited then", Column("Worker", "fold"), Column("Error", "flex")], rows)


def _deaths(console: Console, deaths: Sequence[Death], now: datetime) -> None:
    if len(deaths) < 2:
        return
    _title(console, "Deaths")
    rows = [
        (
            str(d.generation),
            _when(d.died_at, now),
            shown_reason(d.reason),
            f"{d.letter.failure.type}: {clean(d.letter.failure.message)}",
        )
        for d in deaths
    ]
    table(console, ["Put back", "Died", "Reason", Column("Error", "flex")], rows)


def _trail(console: Console, entries: Sequence[AuditEntry], now: datetime) -> None:
    if not entries:
        return
    _title(console, "Done so far")
    rows = [(_when(e.at, now), e.actor, e.action, e.outcome, e.reason) for e in entries]
    table(console, ["At", Column("By", "fold"), "Action", "Outcome", Column("Reason", "fold")], rows)


def _next(console: Console, project: Project, found: ArchivedLetter, entries: Sequence[AuditEntry]) -> None:
    summary = found.summary
    dead: tuple[str, ...] = (
        project.typed("dlq requeue", summary.id, tail=_REASON),
        project.typed("dlq discard", summary.id, tail=_REASON),
    )
    if summary.may_have_run:
        # no command to copy that would run it again: the reader has not looked yet
        dead = (
            "Find out whether its work is done. If it is, it need not run again:",
            dead[-1],
            "If it is not, requeue it by its id; that asks once more.",
        )
    steps = {
        State.DEAD: dead,
        State.DISCARDED: (project.typed("dlq restore", summary.id, tail=_REASON),),
        State.REQUEUED: _requeued(project, found, entries),
        State.RECOVERED: ("Nothing: it has succeeded.",),
    }
    _title(console, "Next")
    for step in steps[summary.state]:
        console.print(f"  {step}", soft_wrap=True)


def _requeued(project: Project, found: ArchivedLetter, entries: Sequence[AuditEntry]) -> tuple[str, ...]:
    """What requeued work waits for, and why it may wait for ever."""
    summary = found.summary
    since = ago(summary.requeued_at, clock.now())
    if summary.requeue_published_at is None:
        said = f"It was to be put back {since}; as far as is known the broker has not taken it: a guardian tries again."
        return (said,)
    task = project.guardrails.app.tasks.get(summary.task)
    why = "It stays requeued where a worker runs it as a plain task: workers report only tasks under guard."
    if task is not None and not is_guarded(task):
        why = "Its task is a plain one in this application, and workers report only tasks under guard."
    refused = [entry for entry in entries if entry.outcome == audit.REFUSED and str(Doubt.NO_TOKEN) in entry.reason]
    if refused:
        why = (
            "A report without a claim token was refused. A worker of an older version sends such reports: update that "
            "worker, and see whether the work is done."
        )
    return (
        f"It was put back {since}, and no worker has reported what became of it.",
        "It waits in its queue, runs, or waits for its next attempt.",
        why,
        "If you are sure that it will not end any more, this makes it dead again:",
        project.typed("dlq restore", summary.id, tail=_REASON),
    )


def _title(console: Console, words: str) -> None:
    console.print(Text(f"\n{words}", "bold"))


def _printable(line: str) -> str:
    return same_length(line)


def _when(instant: datetime | None, now: datetime) -> str:
    return f"{stamp(instant)} ({ago(instant, now)})" if instant else "unknown"


def _lasted(start: datetime | None, end: datetime) -> str:
    if start is None:
        return ""
    return clock.shown(end - start)


def _pairs(named: Mapping[str, Named]) -> str:
    return "; ".join(f"{name}={_some(values_of(value))}" for name, value in named.items())


def _some(values: Sequence[str]) -> str:
    more = len(values) - _LISTED
    return ", ".join(values[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _as_json(found: ArchivedLetter, entries: Sequence[AuditEntry], deaths: Sequence[Death]) -> dict[str, Any]:
    """The keys that `design.md` promises, in its order, then further ones."""
    summary, letter = found.summary, found.letter
    promised = {
        "id": summary.id,
        "task": summary.task,
        "task_id": summary.task_id,
        "state": summary.state.value,
        "reason": summary.reason,
        "generation": summary.generation,
        "error": letter.failure.model_dump(
            mode="json", include={"type", "message", "category", "fingerprint", "traceback"}
        ),
        "attempts": [_attempt_as_json(attempt) for attempt in letter.attempts],
        "queue": summary.queue,
        "published_at": summary.published_at,
        "died_at": summary.died_at,
        "correlation": letter.correlation,
        "affected": letter.affected,
        "args_preview": letter.preview.args,
        "kwargs_preview": letter.preview.kwargs,
        "owner": summary.owner,
        "runbook": letter.runbook,
        "environment": summary.environment,
        "worker": summary.worker,
        "version": summary.version,
    }
    return promised | _further(found, entries, deaths)


def _further(found: ArchivedLetter, entries: Sequence[AuditEntry], deaths: Sequence[Death]) -> dict[str, Any]:
    summary, letter = found.summary, found.letter
    return {
        "explanation": letter.explanation,
        "may_have_run": summary.may_have_run,
        "may_have_run_because": why_may_have_run(summary.reason) if summary.may_have_run else None,
        "preview_truncated": letter.preview.truncated,
        "severity": summary.severity,
        "root_id": summary.root_id,
        "parent_id": summary.parent_id,
        "group_id": summary.group_id,
        "first_failed_at": summary.first_failed_at,
        "archived_at": summary.archived_at,
        "requeued_at": summary.requeued_at,
        "requeued_by": summary.requeued_by,
        "requeue_reason": summary.requeue_reason,
        "resolved_at": summary.resolved_at,
        "regressed": summary.regressed,
        "policy": letter.policy,
        "deaths": [{"generation": d.generation, "died_at": d.died_at, "reason": d.reason} for d in deaths],
        "audit": [_entry_as_json(entry) for entry in entries],
    }


def _attempt_as_json(attempt: FailedAttempt) -> dict[str, Any]:
    names = ("number", "started_at", "ended_at", "error", "message", "worker", "delay")
    return {name: getattr(attempt, name) for name in names}


def _entry_as_json(entry: AuditEntry) -> dict[str, Any]:
    names = ("seq", "at", "actor", "action", "reason", "outcome", "before", "after")
    return {name: getattr(entry, name) for name in names}
