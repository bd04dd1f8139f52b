"""How commands speak: tables that fit, ages, one JSON value, progress only for people."""

from __future__ import annotations

import io
import json
import re
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from celery_guardrails.cli.output import (
    Column,
    ago,
    emit_json,
    note,
    printer,
    progress,
    short,
    span,
    stamp,
    table,
)

NOW = datetime(2026, 3, 1, 14, 2, 5, tzinfo=timezone.utc)
ID = "606e0872-6778-5de4-a57e-2ab7e61eb00d"


class Terminal(io.StringIO):
    """What a person sits in front of."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 120 columns, of which commands use 100."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    return Terminal()


def test_a_table_fits_a_terminal_and_cuts_the_flexible_column(terminal: Terminal) -> None:
    columns = ["Id", Column("Error", "flex"), Column("Count", right=True)]
    table(printer(terminal), columns, [("a1", "x" * 300, "7"), ("b2", "short", "1,204")])
    shown = re.sub(r"\x1b\[\d*m", "", terminal.getvalue()).splitlines()
    assert max(map(len, shown)) == 100
    assert "…" in shown[1]
    assert shown[2].endswith("1,204")


def test_a_folded_column_keeps_every_character(terminal: Terminal) -> None:
    name = "billing.tasks." + "a" * 150
    table(printer(terminal), [Column("Task", "fold"), "N"], [(name, "1")])
    assert name in "".join(line.removesuffix("1").strip() for line in terminal.getvalue().splitlines()[1:])


@pytest.mark.parametrize("columns", [50, 60, 80, 100])
def test_no_value_is_cut_and_no_line_ends_in_blanks(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    row = ("1bd75f44", "1 dead, 12 discarded", "1 h 25 min ago", "billing.invoices.render_pdf", "attempts_exhausted")
    heads = ["Id", "States", "Last died", Column("Task", "fold"), Column("Reason", "fold"), Column("Error", "flex")]
    table(printer(terminal), heads, [(*row, "TimeoutError: " + "x" * 100)])
    shown = re.sub(r"\x1b\[\d*m", "", terminal.getvalue()).splitlines()
    assert all(line == line.rstrip() for line in shown)
    assert max(map(len, shown)) <= columns
    assert sum("…" in line for line in shown) == 1
    text = "".join(shown)
    for piece in ("1bd75f44", "discarded", "billing.", "invoices.", "render_", "exhausted", "TimeoutError: xxx"):
        assert piece in text


def test_words_for_people_end_in_no_blanks(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    printer(terminal).print("a sentence that needs more than one line")
    shown = terminal.getvalue().splitlines()
    assert " ".join(shown) == "a sentence that needs more than one line"
    assert len(shown) > 1


def test_a_piped_table_is_plain_and_not_folded() -> None:
    out = io.StringIO()
    table(printer(out), ["Id", Column("Task", "fold")], [(Text("x", "bold red"), "t" * 190), ("", "[bold]y[/]")])
    assert out.getvalue().splitlines() == ["Id  Task", f"x   {'t' * 190}", "-   [bold]y[/]"]


def test_ids_are_short_for_people_and_whole_for_programs(terminal: Terminal) -> None:
    assert short(ID, printer(terminal)) == "606e0872"
    assert short(ID, printer(io.StringIO())) == ID


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (4800, "1 h 20 min"), (40_000, "11 h"),
     (172_800, "2 d"), (8_640_000, "100 d")],
)  # fmt: skip
def test_spans(seconds: int, text: str) -> None:
    assert span(timedelta(seconds=seconds)) == text


@given(st.integers(-(10**9), 10**9))
def test_spans_are_short(seconds: int) -> None:
    assert 2 <= len(span(timedelta(seconds=seconds))) <= 10


def test_instants() -> None:
    assert ago(None, NOW) == "-"
    assert ago(NOW - timedelta(minutes=3), NOW) == "3 min ago"
    assert stamp(None) == "unknown"
    assert stamp(NOW.astimezone(timezone(timedelta(hours=5)))) == "2026-03-01 14:02:05 UTC"


def test_json_has_instants_in_utc_and_paths_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"at": NOW.astimezone(timezone(timedelta(hours=5))), "path": Path("a/b"), "text": "\ud800 é"})
    found = json.loads(capsys.readouterr().out)
    assert found["at"] == "2026-03-01T14:02:05+00:00"
    assert Path(found["path"]) == Path("a/b")


def test_a_note_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("one\ntwo\x1b[31m")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "one two [31m\n")


def test_no_color_of_celery_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLORTERM", raising=False)

    class Options:
        no_color = True

    @click.command()
    @click.pass_obj
    def command(_options: Any) -> None:
        assert printer(Terminal()).no_color

    assert CliRunner().invoke(command, obj=Options()).exit_code == 0


@pytest.mark.parametrize(("total", "shown"), [(None, True), (100, True), (3, False)])
def test_progress_is_shown_on_a_terminal_when_there_is_enough_to_do(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, total: int | None, shown: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("archiving", total) as advance:
        advance(3)
    assert ("archiving" in terminal.getvalue()) is shown


def test_progress_is_silent_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    with progress("archiving", 100) as advance:
        advance(3)
    assert out.getvalue() == ""
