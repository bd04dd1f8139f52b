"""`dlq requeue`, `dlq discard`, `dlq restore`: deciding what becomes of dead letters, with a name and a reason.

Owns who is asked, what is counted first and what is printed at the end. What an action does is in `recovery/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import click

from celery_guardrails import clock
from celery_guardrails.cli.actor import given_reason, whoever_runs_this
from celery_guardrails.cli.dlq.awaiting import Awaited, await_recovery
from celery_guardrails.cli.dlq.doubt import (
    INCLUDE,
    SWITCHED_OFF,
    UNDERWAY,
    LeftOut,
    in_doubt,
    left_out,
    question,
    underway,
)
from celery_guardrails.cli.dlq.finished import LOOKED_AT, Finished, finished, finished_words
from celery_guardrails.cli.dlq.selection import build_query, is_query
from celery_guardrails.cli.output import emit_json, is_attended, note, progress, say
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.errors import DeadLetterError, RequeueFailed, StoreError
from celery_guardrails.letters.ran import MAY_HAVE_RUN
from celery_guardrails.printable import one_line
from celery_guardrails.recovery import requeue as requeueing
from celery_guardrails.recovery import search, transition
from celery_guardrails.store.filter import Query
from celery_guardrails.store.record import LetterSummary, State
from celery_guardrails.text import count_of

__all__ = ["discard", "requeue", "restore"]

Act = Callable[[str, datetime], str]
"""Changes the dead letter with this id, or beginning of an id, and returns the whole id.

Raises `DeadLetterError` if the change is not possible.
"""

_BROKER_DOWN = 3
"""After this many letters in a row that the broker does not take, no further letter is tried."""


@dataclass(frozen=True)
class _Verb:
    """An action in words (`requeue`, `requeued`), and from which state it starts."""

    name: str
    past: str
    source: State


@dataclass
class _Outcome:
    """What became of the letters that were meant; `stopped`: why the rest was left alone."""

    done: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    stopped: str | None = None


@dataclass(frozen=True)
class _Meant:
    """The letters that are meant: their ids, how many they are, and what a query leaves out (`None`: named by id).

    `terms`: those of the query. `finished`: the letters to be put back whose work is done already.
    """

    ids: Iterable[str]
    matched: int
    left_out: LeftOut | None = None
    terms: Sequence[str] = ()
    finished: Sequence[Finished] = ()

    def noted_as_json(self) -> dict[str, Any]:
        left = {"left_out": self.left_out.as_json()} if self.left_out is not None and self.left_out.count else {}
        return left | ({"finished": [each.as_json() for each in self.finished]} if self.finished else {})


_OPTIONS = (
    click.argument("which", nargs=-1, required=True, metavar="ID...|QUERY"),
    click.option("--reason", required=True, callback=given_reason, help="Why; it goes into the audit trail."),
    click.option("--by", metavar="WHO", default=None, help="Who does it. Default user@host."),
    click.option("--dry-run", is_flag=True, help="Only say how many it would be."),
    click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object and nothing else."),
)


_YES = "With a QUERY: do not ask first. Needed if there is no terminal to ask at."
_YES_REQUEUE = "Do not ask first, not even about what may have run already. A QUERY without a terminal needs it."
_LONGEST_WAIT = 86_400.0
_YES_RESTORE = "Do not ask first, not even about requeued letters. A QUERY without a terminal needs it."


def _change_options(yes: str) -> Callable[[Any], Any]:
    """Add the arguments and options of all changes to a command; `yes`: the help text of its --yes."""

    def add(command: Any) -> Any:
        for option in reversed((*_OPTIONS[:3], click.option("--yes", is_flag=True, help=yes), *_OPTIONS[3:])):
            command = option(command)
        return command

    return add


@click.command(short_help="Put dead letters back into their queues.")
@_change_options(_YES_REQUEUE)
@click.option(
    "--wait", "wait", metavar="SECONDS", type=click.FloatRange(0, _LONGEST_WAIT), default=0.0,
    help="Wait so long for the outcome: recovered, or dead again. A guardian must run. At most a day. Default 0.",
)  # fmt: skip
@click.option(
    INCLUDE, "include_may_have_run", is_flag=True,
    help="With a QUERY: put back what may have run already, too; it may then do its work twice.",
)  # fmt: skip
@click.pass_context
def requeue(ctx: click.Context, /, wait: float, **given: Any) -> None:
    """Put dead letters back into the queue that they came from: by ID, or all that a QUERY means.

    A QUERY leaves out what may have run already. Exit code 1 if it leaves out all, if a letter could not be put back,
    or with --wait if one has not recovered.
    """
    from celery_guardrails.transport.dead_letter import Replayer

    project = project_of(ctx)
    actor, reason = given["by"] or whoever_runs_this(), given["reason"]
    replayer = Replayer(project.app, project.publisher)

    def act(letter_id: str, now: datetime) -> str:
        return requeueing.requeue(project.archive, replayer, letter_id, actor, reason, now).id

    _change(ctx, project, _Verb("requeue", "requeued", State.DEAD), act, given, wait)


@click.command(short_help="Decide that dead letters will not be tried again.")
@_change_options(_YES)
@click.pass_context
def discard(ctx: click.Context, /, **given: Any) -> None:
    """Decide that dead letters will not be tried again. They can be restored."""
    _decide(ctx, _Verb("discard", "discarded", State.DEAD), transition.discard, given)


@click.command(short_help="Take discarded or requeued letters back: they are dead again.")
@_change_options(_YES_RESTORE)
@click.pass_context
def restore(ctx: click.Context, /, **given: Any) -> None:
    """Take discarded letters back: they are dead again and wait for a decision.

    It also takes back requeued letters whose work nobody has reported: by ID, or by a QUERY with state:requeued. It
    asks first, because their work may still be on its way.
    """
    _decide(ctx, _Verb("restore", "restored", State.DISCARDED), transition.restore, given)


def _decide(ctx: click.Context, verb: _Verb, decision: Callable[..., LetterSummary], given: dict[str, Any]) -> None:
    """Change letters in the archive alone, without the broker."""
    project = project_of(ctx)
    actor, reason = given["by"] or whoever_runs_this(), given["reason"]

    def act(letter_id: str, now: datetime) -> str:
        return decision(project.archive, letter_id, actor, reason, now).id

    _change(ctx, project, verb, act, given)


def _change(
    ctx: click.Context, project: Project, verb: _Verb, act: Act, given: dict[str, Any], wait: float = 0.0
) -> None:
    by_query = is_query(given["which"])
    if by_query and not (given["yes"] or given["dry_run"] or is_attended()):
        raise click.UsageError(_unattended(ctx, project), ctx)
    if by_query and verb.name == "restore" and build_query(project, given["which"]).says("state", State.REQUEUED):
        verb = replace(verb, source=State.REQUEUED)
    meant = _by_query(project, verb, given) if by_query else _by_id(project, verb, given["which"])
    if (words := finished_words(meant.finished, meant.matched)) and (by_query or given["yes"] or given["dry_run"]):
        note(words)
    if given["dry_run"]:
        if given["as_json"]:
            emit_json({"action": verb.name, "dry_run": True, "matched": meant.matched, **meant.noted_as_json()})
        else:
            say(f"Would {verb.name} {count_of(meant.matched, 'dead letter')}. Nothing was changed.")
        return
    if not given["yes"]:
        _consent(ctx, project, verb, meant, given)
    outcome = _act_on_all(verb, act, meant.ids, meant.matched)
    awaited = await_recovery(project, outcome.done, wait) if wait and outcome.done else None
    if given["as_json"]:
        emit_json(_as_json(verb, meant, outcome, awaited))
    else:
        say(_summary(project, verb, meant, outcome, awaited))
    refused = meant.left_out is not None and meant.left_out.count and not meant.matched
    if refused or outcome.failed or outcome.stopped or (awaited is not None and not awaited.all_recovered):
        ctx.exit(1)


def _consent(ctx: click.Context, project: Project, verb: _Verb, meant: _Meant, given: dict[str, Any]) -> None:
    """Ask where somebody must be asked; without a yes the command ends here, with nothing changed."""
    if meant.left_out is not None:
        if meant.matched:
            off = f"{SWITCHED_OFF} " if verb.name == "requeue" and not project.settings.enabled else ""
            off = f"{UNDERWAY.capitalize()}. " if verb.source is State.REQUEUED else off
            what = f"{verb.name.capitalize()} {count_of(meant.matched, 'dead letter')}?"
            click.confirm(f"{off}{what}", abort=True, err=True)
        return
    why, look = "", ""
    if verb.name == "restore":
        why = underway(project, given["which"])
    elif verb.name == "requeue":
        doubtful = in_doubt(project, given["which"])
        off = "" if project.settings.enabled else SWITCHED_OFF
        texts = (question(doubtful) if doubtful else "", finished_words(meant.finished, meant.matched), off)
        why = " ".join(text for text in texts if text)
        look = f" Look first: {project.typed('dlq show', doubtful[0].id)}." if doubtful else ""
    if not why:
        return
    if not is_attended():
        raise click.UsageError(f"{why}{look} To {verb.name} all the same, add --yes.", ctx)
    click.confirm(one_line(f"{why} {verb.name.capitalize()} all the same?"), abort=True, err=True)


def _unattended(ctx: click.Context, project: Project) -> str:
    again = project.typed_again(ctx, "--yes")
    return f"There is no terminal to ask at, so a change by QUERY needs --yes (--dry-run counts first): {again}"


def _by_id(project: Project, verb: _Verb, which: Sequence[str]) -> _Meant:
    ids = list(dict.fromkeys(which))
    return _Meant(ids, len(ids), finished=finished(project, ids) if verb.name == "requeue" else ())


def _by_query(project: Project, verb: _Verb, given: dict[str, Any]) -> _Meant:
    # Frozen at this instant: what dies again while this runs is not put back a second time.
    asked = build_query(project, given["which"]).with_term("before", clock.now())
    wanted = asked.with_term("state", verb.source)
    matched, others = search.count(project.archive, wanted), search.count(project.archive, asked)
    rest = others - matched
    others_are = "that matches, but is" if rest == 1 else "that match, but are"
    alone = f" Left alone: {rest:,} {others_are} not {verb.source}." if rest else ""
    left = LeftOut()
    if verb.name == "requeue" and not given["include_may_have_run"]:
        left = left_out(project, wanted)
        wanted, matched = wanted.with_term("may_have_run", "no"), matched - left.count
    note(f"{count_of(matched, 'dead letter')} to {verb.name}.{alone}")
    if left.count:
        note(left.words(project, given["which"]))
    done: Sequence[Finished] = ()
    if verb.name == "requeue":
        done = finished(project, [each.id for each in search.search(project.archive, wanted, LOOKED_AT).letters])
    return _Meant(_ids(project, wanted), matched, left, given["which"], done)


def _ids(project: Project, wanted: Query) -> Iterable[str]:
    for letter in search.each(project.archive, wanted):
        yield letter.id


def _act_on_all(verb: _Verb, act: Act, ids: Iterable[str], matched: int) -> _Outcome:
    outcome = _Outcome()
    refused_in_a_row = 0
    with progress(verb.name, matched) as advance:
        try:
            for letter_id in ids:
                try:
                    whole = act(letter_id, clock.now())
                except DeadLetterError as exc:
                    note(f"{letter_id}: {exc.problem}")
                    outcome.failed.append({"id": letter_id, "problem": exc.problem})
                    refused_in_a_row = refused_in_a_row + 1 if isinstance(exc, RequeueFailed) else 0
                else:
                    outcome.done.append(whole)
                    refused_in_a_row = 0
                advance(1)
                if refused_in_a_row == _BROKER_DOWN:
                    outcome.stopped = "the broker takes no messages"
                    break
        except StoreError as exc:
            outcome.stopped = str(exc)
    return outcome


def _summary(project: Project, verb: _Verb, meant: _Meant, outcome: _Outcome, awaited: Awaited | None) -> str:
    left = meant.left_out.count if meant.left_out is not None else 0
    words = f"{verb.past.capitalize()} {count_of(len(outcome.done), 'dead letter')}"
    if left and not meant.matched:
        who = "it" if left == 1 else "they"
        words = f"{verb.past.capitalize()} none: {left:,} left out, because {who} {MAY_HAVE_RUN}"
    if outcome.failed:
        words += f"; {len(outcome.failed):,} could not be {verb.past}"
    if outcome.stopped:
        words += f"; stopped, because {outcome.stopped}"
    if awaited is not None:
        return f"{words}. {awaited}"
    if verb.name == "requeue" and outcome.done:
        return f"{words}. {_where_to_look(project, meant, outcome)}"
    return f"{words}."


def _where_to_look(project: Project, meant: _Meant, outcome: _Outcome) -> str:
    if len(outcome.done) == 1:
        return f"What became of it: {project.typed('dlq show', outcome.done[0])}"
    if not meant.terms:
        return f"What became of each: {project.typed('dlq show')} ID"
    # they are no longer dead, so a query with state:dead would not find them
    words = " ".join(word for word in " ".join(meant.terms).split(" ") if word != "state:dead")
    return f"What became of them: {project.typed('dlq list', *([words] if words else []))}"


def _as_json(verb: _Verb, meant: _Meant, outcome: _Outcome, awaited: Awaited | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "action": verb.name,
        "dry_run": False,
        "matched": meant.matched,
        "done": outcome.done,
        "failed": outcome.failed,
        "stopped": outcome.stopped,
        **meant.noted_as_json(),
    }
    if awaited is not None:
        found |= {"recovered": awaited.recovered, "dead_again": awaited.dead_again, "unknown": awaited.unknown}
    return found
