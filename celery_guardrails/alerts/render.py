"""The words about a group: the message in the channel and the replies in its thread, as pure data.

Header, what broke and since when, fields, top errors, next step, context: the order in which a tired person asks.
Keeps every limit of Slack's; never shows arguments. It must not know how a message is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from celery_guardrails import clock
from celery_guardrails.alerts.condition import OWN_HEALTH, parts_of
from celery_guardrails.alerts.group import Affected, AlertGroup, ErrorCount, GroupState, Holding, Members
from celery_guardrails.alerts.intent import Notice
from celery_guardrails.alerts.sinks.sink import Message
from celery_guardrails.command import celery_command, query_term
from celery_guardrails.errors import UNNAMED_APP
from celery_guardrails.letters.ran import MAY_HAVE_RUN
from celery_guardrails.policy.decision import Reason
from celery_guardrails.store.column import cut as stored
from celery_guardrails.text import code, count_of, cut, escape, one_line, since, when

__all__ = ["Rendered", "Style", "headline", "render", "render_reply"]

_HEADER, _TEXT, _STORY, _FIELD, _COMMAND, _REASON = 150, 300, 1_000, 250, 500, 300
_TOP = 5
_SHOWN_VALUES, _SHOWN_NAMES = 5, 10
_REASONS = {
    "attempts_exhausted": "used up all attempts",
    "deadline_exceeded": "ran out of time before succeeding",
    "permanent_error": "failed with an error that is not retried",
    "time_limit": "ran into the time limit",
    "expired": "expired before running",
    "unknown_task": "named a task that the worker does not know",
    "undecodable": "had a body that could not be decoded",
    "rejected": "got rejected",
    "retry_unpublishable": "could not be published again for the next attempt",
    "result_unstorable": "ran, or may have, but the result or the callbacks got lost",
    "cancelled": "got cancelled",
}
_SIGNALS = {
    "failed_attempts": "many failed attempts",
    "error_rate": "high error rate",
    "queue_latency": "slow to start",
    "throughput": "too few completed",
    "overdue": "overdue",
    "unreconciled": "dead letters missing from the archive",
    "no_worker": "no worker reports",
    "spool_growing": "spool grows",
    "sink_down": "alerts do not arrive",
}
_UNKNOWN = "failed with an error of unknown kind, which is not retried"
_LOST = ("was running when its worker was killed", "were running when their worker was killed")
_LOST_AGAIN = ("was running more than once when its worker died", "were running more than once when their worker died")


@dataclass(frozen=True)
class Style:
    """What a message says beside the group's figures.

    Args:
        app: the value for Celery's `-A` in the commands shown; `PROJ` stands for it when it is not known.
        console_url: where the web console is, without a slash at the end; `None` leaves its button out.
        quiet: the quiet time, for the words of a resolved alert.
    """

    app: str = UNNAMED_APP
    console_url: str | None = None
    quiet: timedelta = timedelta(minutes=15)


@dataclass(frozen=True)
class Rendered:
    """One message: `text` in one line, `blocks` for Slack, `plain` as lines, `digest` of all but the update time."""

    text: str
    blocks: tuple[dict[str, Any], ...]
    plain: str
    digest: str

    def message(self, post_uid: str = "", *, as_plain_text: bool = False) -> Message:
        """What a sink takes; `as_plain_text` leaves the layout out, for a sink that rejected it."""
        return Message(self.text, self.plain, () if as_plain_text else self.blocks, post_uid)


@dataclass(frozen=True)
class _Parts:
    header: str
    story: str
    fields: tuple[tuple[str, str], ...]
    errors: tuple[ErrorCount, ...]
    other_errors: int
    commands: tuple[str, ...]
    letters_title: str
    samples: tuple[str, ...]


def headline(group: AlertGroup) -> str:
    """`OnboardingEmail: 12 dead letters (production)`, at most 150 characters."""
    ending = f": {_figures(group)} ({cut(one_line(group.environment), 40) or 'no environment'}){_outcome(group)}"
    return cut(one_line(_title(group)), _HEADER - len(ending)) + ending


def _figures(group: AlertGroup) -> str:
    """What is wrong, in a few words: `12 dead letters, overdue`."""
    held = [signal for signal in group.signals if signal != "dead_letter"]
    known = held or sorted({parts_of(name)[0] for name in group.conditions})
    words = [_SIGNALS.get(signal, signal) for signal in (held if group.total else known)]
    return ", ".join([count_of(group.total, "dead letter")] * bool(group.total or not words) + words)


def _outcome(group: AlertGroup) -> str:
    """What became of it, at the end of a headline."""
    letters = group.letters
    if group.members is not None or (group.conditions and not group.total):
        return ", over" if group.state is GroupState.RESOLVED else ""
    if not _needs_decision(group) and not (letters and letters.requeued):
        return ", all decided" if letters and letters.discarded else ", all recovered"
    return ", no new ones" if group.state is GroupState.RESOLVED else ""


def _title(group: AlertGroup) -> str:
    if group.members is not None:
        return f"{group.members.groups} tasks fail"
    return "celery-guardrails" if group.task == OWN_HEALTH else _short(group.task)


def render(group: AlertGroup, now: datetime, style: Style = Style(), remarks: tuple[str, ...] = ()) -> Rendered:
    """The message that shows a group as it is.

    Args:
        group: the figures.
        now: the time of this update, shown at the end.
        style: the commands' app, the console, the quiet time.
        remarks: what the poster has to add, such as why this message is in this channel.
    """
    parts = _parts(group, now, style)
    remarks = (*_cover(group), *remarks)
    context = f"Alert {group.alert_id} · period {group.period} · updated {when(now)}"
    blocks = _blocks(group, parts, style, [*remarks, context])
    plain = _plain(group, parts, style, [*remarks, context])
    text = escape(f"{parts.header}: {parts.story}", _TEXT)
    without_time = _plain(group, parts, style, list(remarks))
    return Rendered(text, blocks, plain, sha256(without_time.encode("utf-8", "replace")).hexdigest())


def render_reply(
    group: AlertGroup,
    notice: Notice,
    facts: Mapping[str, Any],
    style: Style = Style(),
    remarks: tuple[str, ...] = (),
) -> Rendered:
    """The reply in the thread, or an escalation's message; `facts` are the figures of when the engine decided it."""
    words = _news(group, notice, facts, style)
    text = " ".join([f"{_title(group)} ({group.environment}): {words}", *remarks])
    # a mention is as somebody wrote it in the settings, and Slack's form of one; all the rest is escaped
    mention = f"{facts['mention']} " if facts.get("mention") else ""
    blocks = ({"type": "section", "text": {"type": "mrkdwn", "text": mention + escape(text, _STORY)}},)
    digest = sha256(text.encode("utf-8", "replace")).hexdigest()
    return Rendered(mention + escape(text, _TEXT), blocks, cut(one_line(text), _STORY), digest)


def _news(group: AlertGroup, notice: Notice, facts: Mapping[str, Any], style: Style) -> str:
    """What a reply says, in a sentence or two."""
    total, base = facts.get("total", group.total), facts.get("base", group.base)
    now = f"{count_of(total, 'dead letter')} now" if total or not group.conditions else _conditions(group)
    quiet = timedelta(seconds=facts["quiet"]) if "quiet" in facts else style.quiet
    by = one_line(str(facts.get("by", "")))
    why = cut(one_line(str(facts.get("why", ""))), _REASON)
    more = f"{count_of(facts.get('meanwhile', 0), 'further failure')} meanwhile, {now}"
    waited = clock.shown(timedelta(seconds=facts.get("after", 0)))
    words = {
        Notice.RESOLVED: f"{_ended(group, quiet)} {_undecided(facts.get('dead'))}",
        Notice.REOPENED: f"It fails again: {now}.",
        Notice.WORSE_TOTAL: f"It got worse: {now}, {base:,} at the last message here.",
        Notice.WORSE_RATE: f"It got worse: it fails much more often than at the last message here, {now}.",
        Notice.NEW_ERROR: f"It got worse: a new error, {now}.",
        Notice.SEVERITY_ROSE: f"It got worse: it is {group.severity} now, {now}.",
        Notice.NEW_SIGNAL: f"It got worse: {_conditions(group) or now}.",
        Notice.REMINDER: f"It goes on, and nobody has acknowledged it: {now}.",
        Notice.ESCALATED: f"Nobody has acknowledged it for {waited}: {now}. {_impact(group)}",
        Notice.ACKNOWLEDGED: f"{by} takes care of it until {_hour(facts)}.",
        Notice.UNACKNOWLEDGED: f"{by} no longer takes care of it.",
        Notice.REQUEUED: f"{by} requeued {count_of(facts.get('letters', 0), 'letter')}: {why}",
        Notice.SILENCED: f"Silenced until {_hour(facts)}. It goes on counting.",
        Notice.SILENCE_ENDED: f"The silence has ended, and it went on: {more}.",
    }
    return one_line(words.get(notice, f"{now}.")).strip()


def _conditions(group: AlertGroup) -> str:
    """The conditions that hold, in words."""
    return "; ".join(held.summary.rstrip(".") for held in group.conditions.values() if held.holds)


def _ended(group: AlertGroup, quiet: timedelta) -> str:
    """Why a group is resolved."""
    if not group.total and group.conditions:
        return "It is over."
    return f"No new dead letter for {clock.shown(quiet)}."


def _impact(group: AlertGroup) -> str:
    """Who is affected, what to read, and which alert it is, for people who have not followed it."""
    affected = "; ".join(f"{name}: {_some(who, _SHOWN_VALUES)}" for name, who in sorted(group.affected.items()))
    runbook = f"Runbook: {group.runbook}." if group.runbook else ""
    return " ".join(filter(None, [f"Affected: {affected}." if affected else "", runbook, f"Alert {group.alert_id}."]))


def _hour(facts: Mapping[str, Any]) -> str:
    return when(clock.from_epoch(facts["until"])) if "until" in facts else "further notice"


def _parts(group: AlertGroup, now: datetime, style: Style) -> _Parts:
    errors = sorted(group.errors.values(), key=lambda error: (-error.count, error.error, error.message))
    shown = tuple(errors[:_TOP])
    return _Parts(
        header=headline(group),
        story=_story(group, now, style),
        fields=_fields(group),
        errors=shown,
        other_errors=group.other_errors + sum(error.count for error in errors[_TOP:]),
        commands=_commands(group, style),
        letters_title=_letters_title(group),
        samples=tuple(
            one_line(" ".join([s.letter_id, *(f"{k}={v}" for k, v in sorted(s.correlation.items()))]))
            for s in (group.samples if _needs_decision(group) else ())
        ),
    )


def _cover(group: AlertGroup) -> tuple[str, ...]:
    """Who takes care of the group, and how long it is silenced."""
    words = []
    if group.acknowledged is not None:
        words.append(f"Acknowledged by {one_line(group.acknowledged.by)} until {when(group.acknowledged.until)}")
    if group.silenced_until is not None:
        words.append(f"Silenced until {when(group.silenced_until)}")
    return tuple(words)


def _story(group: AlertGroup, now: datetime, style: Style) -> str:
    """What happened, since when, and what became of it, in a few sentences."""
    if group.members is not None:
        return _members(group, group.members, now)
    conditions = "".join(f" {_sentence(held, now)}" for held in group.conditions.values())
    return conditions.strip() if group.conditions and not group.total else _of_letters(group, now, style) + conditions


def _sentence(held: Holding, now: datetime) -> str:
    summary = held.summary.rstrip(".") or "It holds"
    return f"{summary}, since {since(held.since, now)}." if held.holds else f"{summary}: over."


def _members(group: AlertGroup, members: Members, now: datetime) -> str:
    largest = ", ".join(f"{_short(task)} {total:,}" for task, total in members.largest)
    more = f", and {members.groups - len(members.largest)} more" if members.groups > len(members.largest) else ""
    words = (
        f"Since {since(group.first_at, now)}, {count_of(members.groups, 'task')} began to fail at about the same time"
    )
    return f"{words}: {largest}{more}. Look for what they share: a database, a broker, a network, a deployment."


def _of_letters(group: AlertGroup, now: datetime, style: Style) -> str:
    why = _why(group)
    listed = "died: " + ", ".join(f"{count:,} {words}" for words, count in why)
    words = why[0][0] if len(why) == 1 else listed
    what = count_of(group.total, "message") + (f" of {group.task}" if group.unknown_names is None else "")
    story = f"Since {since(group.first_at, now)}, {what} {words}."
    if group.again:
        story += f" {count_of(group.again, 'requeue ended as a dead letter', 'requeues ended as dead letters')} again."
    if group.state is GroupState.RESOLVED:
        story += f" No new dead letter for {clock.shown(style.quiet)}."
    return f"{story} {_became(group)}{_doubt(group)}"


def _why(group: AlertGroup) -> list[tuple[str, int]]:
    """Why the messages died, in words, and how many of them; the most frequent reason first."""
    counts: dict[str, int] = {}
    for reason, count in group.reasons.items():
        part = {"permanent_error": group.unknown, "worker_lost": group.killers}.get(reason, 0)
        some = min(part, count)
        special, plain = _UNKNOWN, _REASONS.get(reason, reason)
        if reason == "worker_lost":
            special, plain = _LOST_AGAIN[some != 1], _LOST[count - some != 1]
        counts |= {special: some} if some else {}
        counts |= {plain: count - some} if count > some else {}
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _became(group: AlertGroup) -> str:
    """What has become of the letters, and what they need."""
    letters = group.letters
    if letters is None or not (letters.dead or letters.requeued or letters.recovered or letters.discarded):
        words = "It will not run again by itself." if group.total == 1 else "They will not run again by themselves."
        return f"{words} {_undecided(None)}" if group.state is GroupState.RESOLVED else words
    if letters.dead:
        if group.state is GroupState.RESOLVED or letters.dead != group.total:
            return _undecided(letters.dead)
        return "It will not run again by itself." if group.total == 1 else "They will not run again by themselves."
    if letters.requeued:
        return f"No letter needs a decision now: {letters.requeued:,} run{'s' * (letters.requeued == 1)} again."
    if letters.discarded:
        return "No letter needs a decision any more."
    return "It has recovered." if group.total == 1 else "All have recovered."


def _doubt(group: AlertGroup) -> str:
    if not group.doubtful or not _needs_decision(group):
        return ""
    all_of_them = "It" if group.total == 1 else "They"
    which = all_of_them if group.doubtful >= group.total else f"{group.doubtful:,} of them"
    if set(group.reasons) == {"worker_lost"} and group.doubtful >= group.total:
        work = "its work" if group.total == 1 else "their work"
        return f" {which} may have done {work}, or part of it: look at each before it is put back."
    return f" {which} {MAY_HAVE_RUN}: look at each before it is put back."


def _needs_decision(group: AlertGroup) -> bool:
    letters = group.letters
    return letters is None or letters.dead > 0 or not (letters.requeued or letters.recovered or letters.discarded)


def _undecided(dead: int | None) -> str:
    if dead is None:
        return "The letters in the archive still need a decision: requeue or discard them."
    if dead == 0:
        return "No letter of this task needs a decision now."
    return f"{count_of(dead, 'dead letter still needs', 'dead letters still need')} a decision: requeue or discard."


def _fields(group: AlertGroup) -> tuple[tuple[str, str], ...]:
    letters = group.letters
    became = ""
    if letters is not None:
        counts = (("dead", letters.dead), ("requeued", letters.requeued), ("recovered", letters.recovered))
        became = ", ".join(f"{n:,} {word}" for word, n in (*counts, ("discarded", letters.discarded)) if n)
    affected = "; ".join(f"{name}: {_some(who, _SHOWN_VALUES)}" for name, who in sorted(group.affected.items()))
    names = _some(group.unknown_names, _SHOWN_NAMES) if group.unknown_names else ""
    fields = (
        ("Tasks", names),
        ("Environment", group.environment),
        ("Severity", group.severity),
        ("First failure", when(group.first_at)),
        ("Last failure", when(group.last_at)),
        ("Letters of this task" if group.unknown_names is None else "Letters of unknown tasks", became),
        ("Affected", affected),
        ("Owner", group.owner or ""),
        ("Queue", group.queue),
        ("Release", group.version or ""),
    )
    return tuple((name, one_line(value)) for name, value in fields if value)


def _some(known: Affected, shown: int) -> str:
    """The first of these values, and how many more there are."""
    hidden = len(known.values) - shown
    more = f" and {hidden}{'+' if known.more else ''} more" if hidden > 0 else ""
    return ", ".join(known.values[:shown]) + more


def _commands(group: AlertGroup, style: Style) -> tuple[str, ...]:
    """The commands to look at the letters and to requeue them by query; none where no letter needs a decision."""
    if group.members is not None:
        return (celery_command(style.app, "guardrails alerts list"), celery_command(style.app, "guardrails dlq groups"))
    if not group.total or not _needs_decision(group):
        return ()
    of_unknown = group.unknown_names is not None
    terms = [query_term("reason", Reason.UNKNOWN_TASK.value) if of_unknown else query_term("task", stored(group.task))]
    terms += [query_term("fingerprint", stored(group.fingerprint))] if group.fingerprint else []
    dead = " ".join([*terms, "state:dead"])

    def typed(command: str, word: str, tail: str = "") -> str:
        return celery_command(style.app, f"guardrails dlq {command}", word, tail=tail)

    show, look, requeue = typed("show", _sample(group)), typed("list", dead), typed("requeue", dead, '--reason "..."')
    if not group.doubtful:
        found: tuple[str, ...] = (show, look, requeue)
    elif group.doubtful < group.total:
        # a requeue by query leaves out what may have run already
        found = (show, typed("list", f"{dead} may_have_run:yes"), look, requeue)
    else:
        found = (show, look)
    # half a command is useless: leave out what a sink would cut
    return tuple(command for command in found if len(escape(command, _COMMAND)) < _COMMAND - 2)


def _letters_title(group: AlertGroup) -> str:
    known = len(group.samples)
    return f"Letters ({known} of {group.total:,})" if known < group.total else "Letter" if known == 1 else "Letters"


def _sample(group: AlertGroup) -> str:
    return group.samples[-1].letter_id if group.samples else "ID"


def _blocks(group: AlertGroup, parts: _Parts, style: Style, context: list[str]) -> tuple[dict[str, Any], ...]:
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": parts.header, "emoji": False}},
        _section(escape(parts.story, _STORY)),
        {"type": "section", "fields": [_mrkdwn(f"*{name}*\n{escape(value, _FIELD)}") for name, value in parts.fields]},
    ]
    lines = [f"*{e.count:,} x* {code(e.error, 120)} {escape(e.message, 200)}" for e in parts.errors]
    if parts.other_errors:
        lines.append(f"and {count_of(parts.other_errors, 'dead letter')} with other errors")
    if lines:
        blocks.append(_section("*Top errors*\n" + "\n".join(lines)))
    if parts.commands:
        steps = [f"Runbook: {escape(group.runbook, 500)}"] if group.runbook else []
        steps += [code(command, _COMMAND) for command in parts.commands]
        blocks.append(_section("*Next step*\n" + "\n".join(steps)))
    if parts.samples:
        letters = "\n".join(code(sample, 300) for sample in parts.samples)
        blocks.append(_section(f"*{parts.letters_title}*\n{letters}"))
    if style.console_url:
        button = {"type": "button", "text": {"type": "plain_text", "text": "Open in console"}}
        blocks.append(
            {"type": "actions", "elements": [{**button, "url": f"{style.console_url}/alerts/{group.alert_id}"}]}
        )
    blocks.append({"type": "context", "elements": [_mrkdwn(escape(line, _FIELD)) for line in context[:10]]})
    return tuple(blocks)


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _mrkdwn(text)}


def _mrkdwn(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text, "verbatim": True} if text else {"type": "mrkdwn", "text": " "}


def _plain(group: AlertGroup, parts: _Parts, style: Style, context: list[str]) -> str:
    lines = [parts.header, cut(one_line(parts.story), _STORY)]
    lines += [f"  {name}: {cut(value, _FIELD)}" for name, value in parts.fields]
    lines += ["Top errors:"] if parts.errors else []
    lines += [f"  {e.count:,} x {cut(one_line(e.error), 120)}: {cut(one_line(e.message), 200)}" for e in parts.errors]
    if parts.other_errors:
        lines.append(f"  and {count_of(parts.other_errors, 'dead letter')} with other errors")
    if parts.commands:
        lines.append("Next step:")
        lines += [f"  Runbook: {cut(one_line(group.runbook), 500)}"] if group.runbook else []
        lines += [f"  {cut(command, _COMMAND)}" for command in parts.commands]
    if parts.samples:
        lines.append(f"{parts.letters_title}: " + "; ".join(cut(sample, 300) for sample in parts.samples))
    if style.console_url:
        lines.append(f"Console: {style.console_url}/alerts/{group.alert_id}")
    return "\n".join([*lines, *(cut(one_line(line), _FIELD) for line in context)])


def _short(task: str) -> str:
    return task.rsplit(".", 1)[-1] or task
