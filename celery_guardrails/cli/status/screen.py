"""`guardrails status` on one screen: each question with its answer, then a table of the tasks.

Owns the words. It must not know where the answers come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta, timezone

from rich.console import Console
from rich.text import Text

from celery_guardrails import clock
from celery_guardrails.cli.output import Column, ago, span, table
from celery_guardrails.cli.project import Project
from celery_guardrails.cli.sparkline import drawable, sparkline
from celery_guardrails.cli.status.overview import BARS, Driver, Overview
from celery_guardrails.command import celery_command
from celery_guardrails.figures.measure import of_outcome, retries_average, retries_quantile, success_rate
from celery_guardrails.figures.summary import MOST_DEAD, MOST_TASKS, AttemptOutcome, TaskFigures
from celery_guardrails.printable import one_line
from celery_guardrails.text import count_of

__all__ = ["show"]

_LABEL = 14
_SHOWN = 5
_TASKS = 20
_OLD = timedelta(minutes=2)
_WHY = {
    "not_sent": "nobody sent it",
    "not_started": "it was sent, and no worker began it",
    "no_success": "it began, and did not succeed",
}
_PER_BAR = "5 min a bar, 2 h"
_WIDE, _MEDIUM = 70, 50
"""Columns of a terminal from which on all figures are shown, or the most important ones."""
_POOR = 0.9
_MEANINGS = {
    "Success": "of the jobs that ended",
    "Retries": "a job's average",
    "p95": "what 95 % of the jobs do not exceed",
    "Done in": "from publish to success, for 95 % of the jobs that succeeded",
}


def show(console: Console, found: Overview, project: Project) -> None:
    """Print the overview."""
    at = found.at.astimezone(timezone.utc).strftime("%H:%M:%S UTC")
    console.print(Text(f"{project.name}, environment {one_line(found.environment)}, {at}", "bold"))
    blocks = drawable(getattr(console.file, "encoding", None))
    for label, lines in _answers(found, project, blocks):
        for number, line in enumerate(lines):
            head = Text((label if number == 0 else "").ljust(_LABEL), "bold")
            for part, text in enumerate(_wrapped(line, console)):
                console.print(Text.assemble(head if part == 0 else " " * _LABEL, text), soft_wrap=True)
    if found.tasks:
        console.print()
        _tasks(console, found)


def _wrapped(line: Text, console: Console) -> list[Text]:
    """A line broken so that it stays beside its label."""
    if not console.is_terminal:
        return [line]
    parts = list(line.wrap(console, max(20, console.width - _LABEL)))
    for part in parts:
        part.rstrip()
    return parts


def _answers(found: Overview, project: Project, blocks: bool) -> Iterator[tuple[str, list[Text]]]:
    yield "Dead letters", _dead_letters(found, blocks)
    yield "Retries", _retries(found, blocks)
    yield "Overdue", _overdue(found)
    yield "To decide", _to_decide(found, project)
    states = ("open", "acknowledged", "silenced")
    alerts = ", ".join(f"{found.alerts.get(state, 0):,} {state}" for state in states)
    yield "Alerts", [Text(alerts, "red" if found.alerts.get("open") else "")]
    yield "Guardian", _guardian(found, project)
    if not found.tasks:
        yield "Figures", [_no_figures(found)]
    if found.beside.attempts or found.beside.dead_letters:
        yield "Cut off", _cut_off(found)


def _dead_letters(found: Overview, blocks: bool) -> list[Text]:
    last, before = found.last_hour, found.previous_hour
    trend = "rising" if last > before else "falling" if last < before else "as many"
    style = "red" if last > before else "green" if last < before else ""
    words = Text.assemble(f"{last:,} in the last hour, {before:,} in the hour before: ", (trend, style))
    if not last and not before:
        words = Text("none in the last two hours", "green")
    return [words, Text(f"{sparkline(found.came, blocks=blocks)}  {_PER_BAR}")]


def _retries(found: Overview, blocks: bool) -> list[Text]:
    number = sum(found.retries[BARS // 2 :])
    lines = [_driven(found.driver, number, found)]
    if any(found.retries):
        lines.append(Text(f"{sparkline(found.retries, blocks=blocks)}  {_PER_BAR}"))
    if found.waiting is None:
        lines.append(Text(f"how many wait is not known: {found.waiting_problem}", "yellow"))
    else:
        lines.append(
            Text(f"{count_of(found.waiting, 'task waits', 'tasks wait')} outside the workers, most to be retried")
        )
    return lines


def _driven(driver: Driver | None, number: int, found: Overview) -> Text:
    if not number:
        return Text("none in the last hour")
    words = count_of(number, "retry", "retries") + " in the last hour"
    if driver is None:
        return Text(f"{words}, driven by no single task")
    if driver.since is None:
        since = "for over 48 h"
    else:
        at = driver.since.astimezone(timezone.utc)
        day = "" if at.date() == found.at.astimezone(timezone.utc).date() else f"{at:%m-%d} "
        since = f"since {day}{at:%H:%M} UTC ({span(found.at - driver.since)})"
    return Text.assemble(f"{words}, {int(driver.share * 100)} % of ", (one_line(driver.task), "yellow"), f", {since}")


def _overdue(found: Overview) -> list[Text]:
    if not found.overdue:
        return [Text("nothing")]
    return [
        Text(
            f"{one_line(each.entry)} ({one_line(each.task)}), due {ago(each.due_at, found.at)}: "
            f"{_WHY.get(each.why, each.why)}; last success {ago(each.last_succeeded_at, found.at)}",
            "red",
        )
        for each in found.overdue
    ]


def _to_decide(found: Overview, project: Project) -> list[Text]:
    if not found.undecided:
        return [Text("nothing", "green")]
    total = sum(each.count for each in found.undecided)
    oldest = min(each.oldest_at for each in found.undecided)
    lines = [Text(f"{count_of(total, 'dead letter')}, the oldest died {ago(oldest, found.at)}")]
    lines += [Text(f"{one_line(each.task)}: {each.count:,}") for each in found.undecided[:_SHOWN]]
    if more := len(found.undecided) - _SHOWN:
        lines += [Text(f"and {count_of(more, 'further task')}")] if more > 0 else []
    return [*lines, Text(project.typed("dlq groups state:dead"))]


def _guardian(found: Overview, project: Project) -> list[Text]:
    if found.alive:
        names = (f"{one_line(each.host)} (process {each.pid})" for each in found.alive)
        return [Text(f"{', '.join(names)}, seen {ago(found.alive[0].seen_at, found.at)}", "green")]
    seen = f", last seen {ago(found.guardians[0].seen_at, found.at)}" if found.guardians else ""
    words = f"none is alive{seen}: dead letters and figures wait, and no alert is posted"
    return [Text(words, "red"), Text(f"start one: {celery_command(project.name, 'guardian')}")]


def _cut_off(found: Overview) -> list[Text]:
    """What summaries had no room for, since the archive began."""
    lines = []
    if found.beside.attempts:
        words = f"{count_of(found.beside.attempts, 'attempt')} of further tasks are in no figures"
        lines.append(Text(f"{words}: a worker counts {MOST_TASKS} tasks in ten seconds", "yellow"))
    if found.beside.dead_letters:
        words = f"{count_of(found.beside.dead_letters, 'dead letter')} would not be missed if the broker lost them"
        lines.append(Text(f"{words}: a worker lists {MOST_DEAD:,} in ten seconds", "yellow"))
    return lines


def _no_figures(found: Overview) -> Text:
    if found.counted_at is not None:
        return Text(
            f"no attempt in the last {span(found.period)}; the last figures came {ago(found.counted_at, found.at)}"
        )
    words = "none yet: workers under guard send them every 10 s, and a guardian counts them"
    if found.others:
        words += f"; this archive has figures of {', '.join(map(one_line, found.others))}"
    return Text(words, "yellow")


def _tasks(console: Console, found: Overview) -> None:
    titles = _titles(console)
    by_trouble = sorted(found.tasks.items(), key=lambda each: (-_dead(each[1]), -each[1].attempts, each[0]))
    rows = [
        (task, *(cells[title] for title in titles))
        for task, figures in by_trouble[:_TASKS]
        for cells in [_cells(figures, found.period)]
    ]
    table(console, [Column("Task", "fold"), *(Column(title, right=True) for title in titles)], rows)
    if more := len(by_trouble) - len(rows):
        console.print(Text(f"and {count_of(more, 'further task')}"))
    meanings = " ".join(f"{title}: {_MEANINGS[title]}." for title in titles if title in _MEANINGS)
    console.print(Text(f"The last {span(found.period)}. {meanings}"))


def _titles(console: Console) -> list[str]:
    """The columns for which there is room."""
    if not console.is_terminal or console.width >= _WIDE:
        return ["Attempts", "Success", "Retries", "p95", "Dead", "Dead/h", "Done in"]
    return ["Attempts", "Success", "Dead", "Done in"] if console.width >= _MEDIUM else ["Success", "Dead"]


def _cells(figures: TaskFigures, period: timedelta) -> dict[str, str | Text]:
    rate, average = success_rate(figures), retries_average(figures)
    most, done = retries_quantile(figures, 0.95), figures.time_to_succeed.quantile(0.95)
    dead = _dead(figures)
    return {
        "Attempts": f"{figures.attempts:,}",
        "Success": "-" if rate is None else Text(_percent(rate), "red" if rate < _POOR else ""),
        "Retries": "-" if average is None else f"{average:.2g}",
        "p95": "-" if most is None else str(most),
        "Dead": Text(f"{dead:,}", "red" if dead else ""),
        "Dead/h": f"{dead / (period / timedelta(hours=1)):.3g}",
        "Done in": "-" if done is None else clock.shown(timedelta(seconds=done)),
    }


def _percent(share: float) -> str:
    """Rounded down, so that only all is 100 %."""
    return f"{int(share * 1000) / 10:g} %"


def _dead(figures: TaskFigures) -> int:
    return of_outcome(figures, AttemptOutcome.DEAD)
