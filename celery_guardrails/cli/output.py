"""How commands speak: one JSON value, plain tables, one line on stderr, progress on a terminal.

Owns the look of everything that is printed, and that nothing printed can carry control characters of its own.
It must not know what is shown.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import IO, Any, Literal

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from celery_guardrails import clock
from celery_guardrails.alerts.text import cut
from celery_guardrails.cli.width import broken, longest_piece, shared
from celery_guardrails.printable import lines, one_line

__all__ = [
    "Column",
    "ago",
    "clean",
    "emit_json",
    "is_attended",
    "json_option",
    "limit_type",
    "note",
    "printer",
    "progress",
    "say",
    "short",
    "span",
    "stamp",
    "table",
]

WIDEST = 100
"""Columns that people see at most; what is piped into a file or another program has no such limit."""
_PIPED = 4000
_SHORT_ID = 8
_PIPED_CELL = 200
_WORTH_A_BAR = 20

limit_type = click.IntRange(min=1, max=2**31 - 1)
"""How many of something: as many as every database counts."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value and nothing else.")


class _Clean(Console):
    """A console that prints no character which could steer the terminal, whatever it is given."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's."""
        super().print(*map(_printable, objects), **options)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return lines(value)
    if isinstance(value, Text) and not value.plain.isprintable():
        value.plain = lines(value.plain)  # as long as before, so that its styles stay where they are
    return value


def printer(file: IO[str] | None = None) -> Console:
    """A console for people: at most 100 columns on a terminal, unlimited and without colours when piped."""
    stream = file or sys.stdout
    context = click.get_current_context(silent=True)
    plain = bool(getattr(getattr(context, "obj", None), "no_color", False)) or None
    console = _Clean(file=stream, no_color=plain, highlight=False, markup=False, emoji=False, soft_wrap=False)
    console.width = min(console.width, WIDEST) if console.is_terminal else _PIPED
    return console


def emit_json(value: Any) -> None:
    """Print one JSON value on stdout: instants as ISO 8601 in UTC; a number that JSON does not have is `null`."""
    click.echo(json.dumps(_valid(value), indent=2, allow_nan=False))


def say(text: str) -> None:
    """Text for people on stdout; it keeps its own line breaks."""
    click.echo(lines(text))


def is_attended() -> bool:
    """Whether somebody sits at a terminal who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def note(text: str) -> None:
    """One line on stderr, beside the output."""
    click.echo(one_line(text), err=True)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    `fixed` columns are shown whole, `fold` ones are broken into lines where there is no room, behind a dot or an
    underline where a word is too long, and the `flex` one, of which there is at most one, gets what the others leave,
    and ends in an ellipsis.
    """

    title: str
    kind: Literal["fixed", "fold", "flex"] = "fixed"
    right: bool = False


def table(console: Console, columns: Sequence[Column | str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table; a string is a fixed column, and `-` stands for nothing."""
    heads = [Column(column) if isinstance(column, str) else column for column in columns]
    cells = [[_cell(console, head, value) for head, value in zip(heads, row, strict=True)] for row in rows]
    widths = _fit(console, heads, cells) if console.is_terminal else {}
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, head in enumerate(heads):
        side: Literal["right", "left"] = "right" if head.right else "left"
        grid.add_column(
            head.title, overflow="fold", no_wrap=head.kind != "fold", justify=side, width=widths.get(number)
        )
    for row in cells:
        grid.add_row(*row)
    for line in _lines(console, grid):
        console.print(line, crop=False, overflow="ignore", no_wrap=True)


def clean(text: str) -> str:
    """The text on one line without control characters, so that a message cannot steer the terminal."""
    return one_line(text)


def short(letter_id: str, console: Console) -> str:
    """The start of an id, which every command takes, on a terminal; the whole id when piped."""
    return letter_id[:_SHORT_ID] if console.is_terminal else letter_id


def ago(instant: datetime | None, now: datetime) -> str:
    """`3 min ago`, `2 h ago`, `5 d ago`; `-` for an instant that is not known."""
    return "-" if instant is None else f"{span(now - instant)} ago"


def span(delta: timedelta) -> str:
    """How long ago, as coarse as an age is read: `45 s`, `3 min`, `1 h 20 min`, `5 d`."""
    seconds = max(0, int(delta.total_seconds()))
    sizes = ((60, 1), (10 * 3600, 60), (48 * 3600, 3600))
    size = next((size for limit, size in sizes if seconds < limit), 86_400)
    return clock.shown(timedelta(seconds=seconds // size * size))


def stamp(instant: datetime | None) -> str:
    """`2026-03-01 14:02:05 UTC`, or `unknown`."""
    return "unknown" if instant is None else instant.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


@contextmanager
def progress(words: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr while the block runs; yields what counts so many more as done.

    There is none where stderr is no terminal, or where there is too little to do for one.
    """
    stream = sys.stderr
    if not stream.isatty() or (total is not None and total < _WORTH_A_BAR):
        yield lambda _count: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task(words, total=total)
        yield lambda count: bar.advance(task, count)


def _fit(console: Console, heads: Sequence[Column], cells: Sequence[Sequence[Text]]) -> dict[int, int]:
    """Break and cut the cells of columns for which there is no room; gives the widths of these columns."""
    titles = [head.title for head in heads]
    natural = [max([len(title), *(row[number].cell_len for row in cells)]) for number, title in enumerate(titles)]
    least = {
        number: max([len(head.title), *(longest_piece(row[number].plain) for row in cells)])
        for number, head in enumerate(heads)
        if head.kind == "fold"
    }
    flex = next((number for number, head in enumerate(heads) if head.kind == "flex"), None)
    widths = shared(console.width, natural, least, flex, titles)
    for row in cells:
        for number, width in widths.items():
            if number == flex:
                row[number].truncate(width, overflow="ellipsis")
            elif not row[number].spans:
                row[number].plain = broken(row[number].plain, width)
    return widths


def _cell(console: Console, head: Column, value: str | Text) -> Text:
    if isinstance(value, Text):
        return value
    text = one_line(value) or "-"
    return Text(text if console.is_terminal or head.kind != "flex" else cut(text, _PIPED_CELL))


def _lines(console: Console, grid: Table) -> list[Text]:
    """The table's lines without the blanks that fill up its last column."""
    lines = []
    for segments in console.render_lines(grid, pad=False):
        line = Text("", end="")
        for segment in segments:
            line.append(segment.text, segment.style)
        line.rstrip()
        line.end = "\n"
        lines.append(line)
    return lines


def _valid(value: Any) -> Any:
    """What JSON can hold, and every reader of it takes."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_text(key): _valid(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_valid(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat()
    return _text(value)


def _text(value: Any) -> str:
    text = str.__str__(value) if isinstance(value, str) else str(value)
    return text.encode("utf-8", "replace").decode()
