"""How commands print: one JSON value, plain tables, one line on stderr, progress on a terminal.

Owns the look of everything that is printed, and that no printed value can carry control characters.
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
from rich.text import Text

from celery_guardrails import clock
from celery_guardrails.cli.width import GAP, broken, longest_piece, longest_word, shared, spare
from celery_guardrails.printable import lines, one_line
from celery_guardrails.text import cut

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
"""The most columns on a terminal; output that is piped into a file or a program has no such limit."""
_PIPED = 4000
_SHORT_ID = 8
_PIPED_CELL = 200
_INDENT = 4
_WORTH_A_BAR = 20

limit_type = click.IntRange(min=1, max=2**31 - 1)
"""A number of rows, at most the largest that every database takes."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value and nothing else.")


class _Clean(Console):
    """A console that prints no character which could steer the terminal, whatever it is given."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does."""
        shown = [*map(_printable, objects)]
        if options or len(shown) != 1 or not self.is_terminal or not isinstance(shown[0], (str, Text)):
            super().print(*shown, **options)
            return
        text = shown[0] if isinstance(shown[0], Text) else Text(shown[0])
        for line in text.wrap(self, self.width) or [Text()]:
            line.rstrip()  # a line that is broken here would end with a blank
            super().print(line, soft_wrap=True)


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
    """Print one JSON value on stdout: instants as ISO 8601 in UTC; NaN and infinity, which JSON lacks, as `null`."""
    click.echo(json.dumps(_valid(value), indent=2, allow_nan=False))


def say(text: str) -> None:
    """Print a text for people on stdout; it keeps its own line breaks."""
    click.echo(lines(text))


def is_attended() -> bool:
    """Whether somebody at a terminal can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def note(text: str) -> None:
    """Print one line on stderr, beside the output."""
    click.echo(one_line(text), err=True)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    A `fixed` column keeps its width for as long as possible. A `fold` column is broken into lines if there is no room:
    between words, then after a dot or an underline. At most one column is `flex`: it gets the room that the others
    leave, and ends in an ellipsis. If they leave too little, it gets a line of its own below its row.
    """

    title: str
    kind: Literal["fixed", "fold", "flex"] = "fixed"
    right: bool = False


def table(console: Console, columns: Sequence[Column | str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table; a string is a fixed column, and `-` stands for nothing."""
    heads = [Column(column) if isinstance(column, str) else column for column in columns]
    cells = [[Text(head.title, "bold") for head in heads]]
    cells += [[_cell(console, head, value) for head, value in zip(heads, row, strict=True)] for row in rows]
    for line in _grid(console, heads, cells):
        line.rstrip()
        line.end = "\n"
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
    """A duration, rounded down as people read an age: `45 s`, `3 min`, `1 h 20 min`, `5 d`."""
    seconds = max(0, int(delta.total_seconds()))
    sizes = ((60, 1), (10 * 3600, 60), (48 * 3600, 3600))
    size = next((size for limit, size in sizes if seconds < limit), 86_400)
    return clock.shown(timedelta(seconds=seconds // size * size))


def stamp(instant: datetime | None) -> str:
    """`2026-03-01 14:02:05 UTC`, or `unknown`."""
    return "unknown" if instant is None else instant.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


@contextmanager
def progress(words: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr while the block runs; yields a function that counts so many more as done.

    No bar is shown if stderr is not a terminal, or if there are fewer than 20 to do.
    """
    stream = sys.stderr
    if not stream.isatty() or (total is not None and total < _WORTH_A_BAR):
        yield lambda _count: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task(words, total=total)
        yield lambda count: bar.advance(task, count)


def _grid(console: Console, heads: Sequence[Column], cells: Sequence[Sequence[Text]]) -> Iterator[Text]:
    """The lines of a table. The first row of `cells` holds the titles."""
    flex = next((number for number, head in enumerate(heads) if head.kind == "flex"), None)
    natural = [max(row[number].cell_len for row in cells) for number in range(len(heads))]
    beside = None if flex is None or not console.is_terminal else spare(console.width, natural, flex)
    below = flex if console.is_terminal and beside is None else None
    if flex is not None and beside is not None:
        natural[flex] = beside
    shown = [number for number in range(len(heads)) if number != below]
    widths = [natural[number] for number in shown]
    if console.is_terminal:
        widths = shared(
            console.width, widths, _least([heads[n] for n in shown], [[row[n] for n in shown] for row in cells])
        )
    for row in cells:
        yield from _beside([(row[n], heads[n], width) for n, width in zip(shown, widths, strict=True)], console)
        if below is not None:
            line = row[below].copy()
            line.truncate(console.width - _INDENT, overflow="ellipsis")
            yield Text.assemble(" " * _INDENT, line)


def _least(heads: Sequence[Column], cells: Sequence[Sequence[Text]]) -> list[dict[int, int]]:
    """Which columns become narrower, and to which width, in three steps.

    First `fold` columns to their longest word, then to the longest part of a word; then `fixed` ones to their longest
    word.
    """
    words, pieces, others = {}, {}, {}
    for number, head in enumerate(heads):
        texts = [row[number].plain for row in cells]
        longest = max(map(longest_word, texts))
        if head.kind == "fold":
            words[number] = longest
            pieces[number] = max(longest_word(head.title), *map(longest_piece, texts))
        elif head.kind == "fixed":
            others[number] = longest
    return [words, pieces, others]


def _beside(row: Sequence[tuple[Text, Column, int]], console: Console) -> Iterator[Text]:
    """The lines of one row: each cell comes with its column and the column's width."""
    columns = [_folded(cell, head, width, console) for cell, head, width in row]
    for number in range(max(map(len, columns))):
        line = Text()
        for (_, head, width), parts in zip(row, columns, strict=True):
            part = parts[number] if number < len(parts) else Text()
            part.rstrip()
            fill = " " * max(0, width - part.cell_len)
            line = Text.assemble(line, *((fill, part) if head.right else (part, fill)), " " * GAP)
        yield line


def _folded(cell: Text, head: Column, width: int, console: Console) -> list[Text]:
    if cell.cell_len <= width:
        return [cell]
    if head.kind == "flex":
        cell.truncate(width, overflow="ellipsis")
        return [cell]
    if not cell.spans:
        cell.plain = broken(cell.plain, width)
    return list(cell.wrap(console, width, overflow="fold"))


def _cell(console: Console, head: Column, value: str | Text) -> Text:
    if isinstance(value, Text):
        return value
    text = one_line(value) or "-"
    return Text(text if console.is_terminal or head.kind != "flex" else cut(text, _PIPED_CELL))


def _valid(value: Any) -> Any:
    """The value in a form that JSON can hold, and that every reader of JSON takes."""
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
