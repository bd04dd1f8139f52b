"""`guardrails idempotency`: what the ledger knows of some work, and having it forget the work.

Owns which work a command line means, and how it is shown. `recovery/forgetting.py` does what is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import click
from rich.text import Text

from celery_guardrails import clock
from celery_guardrails.cli.actor import given_reason, whoever_runs_this
from celery_guardrails.cli.group import LazyGroup
from celery_guardrails.cli.output import ago, clean, emit_json, json_option, printer, say, stamp
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.errors import LedgerError
from celery_guardrails.idempotency.ledger import Kept, Ledger, State
from celery_guardrails.idempotency.memory import MemoryLedger
from celery_guardrails.recovery.forgetting import KnownWork, find_work, forget_work
from celery_guardrails.redaction.process import shown, shown_data

__all__ = ["idempotency"]

_KEPT = {
    Kept.NONE: "none",
    Kept.HERE: "in the ledger",
    Kept.BACKEND: "too large for the ledger: in the result backend, under the task id",
    Kept.LOST: "too large for the ledger, and in no result backend: a duplicate ends without it",
}


@click.group(cls=LazyGroup)
def idempotency() -> None:
    """See whether some work is done, and have it forgotten, so that it may be done again."""


_OPTIONS = (
    click.argument("key", metavar="KEY"),
    click.option("--task", metavar="NAME", help="Only work of this task."),
    click.option("--scope", metavar="NAME", help="Only work in this scope, where the policy names one."),
    click.option("--environment", metavar="NAME", help="Default: the setting environment."),
)


def _work_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what says which work is meant."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@idempotency.command(short_help="Show what the ledger knows of some work.")
@_work_options
@json_option
@click.pass_context
def show(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Show what the ledger knows of the work with this KEY. What the work returned is not shown.

    KEY is what the sender gave as idempotency_key, or what a log line shows of a key. Of a task without keys it is the
    task id.
    """
    project = project_of(ctx)
    work = _found(ctx, project, _ledger(ctx, project), given)
    if as_json:
        emit_json(_as_json(work))
    else:
        _show(work, clock.now())


@idempotency.command(short_help="Forget some work, so that it may be done again.")
@_work_options
@click.option("--reason", required=True, callback=given_reason, help="Why, for the audit trail.")
@click.option("--by", metavar="WHO", help="Who does it, for the audit trail. Default: user@host.")
@click.option("--force", is_flag=True, help="Also if the work is being done just now: it may then be done twice.")
@json_option
@click.pass_context
def forget(ctx: click.Context, /, reason: str, by: str | None, force: bool, as_json: bool, **given: Any) -> None:
    """Forget the work with this KEY: the next message with it does the work again, and its fences begin at 1.

    Work that is being done, or waits for its next attempt, is refused without --force.
    """
    project = project_of(ctx)
    ledger = _ledger(ctx, project)
    work = _found(ctx, project, ledger, given)
    actor = shown(by or whoever_runs_this())
    forget_work(project.archive, ledger, work, actor, reason, clock.now(), force=force)
    if as_json:
        emit_json({**_as_json(work), "forgotten": True})
    else:
        what = f"{shown(work.entry.text)} of {shown(work.entry.scope)}"
        say(f"Forgot {what}: the next message with this key does the work.")


def _ledger(ctx: click.Context, project: Project) -> Ledger:
    ledger = project.guardrails.ledger()
    if isinstance(ledger, MemoryLedger):
        raise LedgerError(ledger.name, "is in the memory of each process, so that no command sees it")
    ctx.call_on_close(ledger.close)
    return ledger


def _found(ctx: click.Context, project: Project, ledger: Ledger, given: dict[str, Any]) -> KnownWork:
    if given["task"] is not None and given["scope"] is not None:
        raise click.UsageError("Give --task or --scope, not both.", ctx)
    environment = given["environment"] or project.settings.environment
    scope = given["scope"] if given["task"] is None else _scope_of(project, given["task"])
    return find_work(ledger, environment, given["key"], scope, () if scope is not None else _scopes(project))


def _scopes(project: Project) -> list[str]:
    """The scopes of the application's tasks under guard: a sender may give a key to each of them."""
    return [_scope_of(project, task.name) for task in project.guardrails.guarded_tasks()]


def _scope_of(project: Project, name: str) -> str:
    """The scope of a task; of one that the application does not have, its name."""
    task = project.guardrails.app.tasks.get(name)
    declared = None if task is None else project.guardrails.policy_of(task).policy.idempotency
    return declared.scope if declared is not None and declared.scope is not None else name


def _show(work: KnownWork, now: datetime) -> None:
    entry = work.entry
    facts = (
        ("Key", shown(entry.text)),
        ("Scope", shown(entry.scope)),
        ("Environment", work.key.environment),
        ("Task", entry.task),
        ("Task id", entry.task_id),
        ("State", _state(work)),
        ("Fence", f"{entry.fence:,}"),
        ("Since", f"{stamp(entry.began_at)} ({ago(entry.began_at, now)})"),
        ("Until", "" if entry.state is State.FREE else stamp(entry.until)),
        ("Done at", f"{stamp(entry.done_at)} ({ago(entry.done_at, now)})" if entry.done_at else ""),
        ("Result", _KEPT[entry.result.kept] if entry.state is State.DONE else ""),
    )
    console = printer()
    for name, value in facts:
        if value:
            console.print(Text.assemble((f"{name:<14}", "dim"), clean(value)), soft_wrap=True)


def _state(work: KnownWork) -> str:
    state = work.entry.state
    if state is State.FREE:
        return "free: it failed, and the next message with this key does it"
    if state is State.DONE:
        again = "done, and not remembered any more: the next message with this key does it again"
        return again if work.may_begin else "done: a message with this key gets its result"
    if work.may_begin:
        return "running, but its lease is over: the next message with this key does it"
    return "running, or waiting for its next attempt"


def _as_json(work: KnownWork) -> dict[str, Any]:
    entry = work.entry
    texts: dict[str, Any] = shown_data(
        {
            "key": entry.text,
            "scope": entry.scope,
            "environment": work.key.environment,
            "task": entry.task,
            "task_id": entry.task_id,
        }
    )
    return {
        **texts,
        "state": entry.state.value,
        "may_begin": work.may_begin,
        "fence": entry.fence,
        "began_at": entry.began_at,
        "until": entry.until,
        "done_at": entry.done_at,
        "result_kept": entry.result.kept.value,
    }
