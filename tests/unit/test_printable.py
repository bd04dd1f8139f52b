"""Text that somebody else has chosen, on its way to a terminal or a log."""

from __future__ import annotations

import io
import logging
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_guardrails.printable import lines, one_line, same_length, text_of

ESC, CSI, RLO, LONE = "\x1b[31m", "\x9b31m", "\u202e", "\ud800"
HOSTILE = f"a{ESC}b{CSI}c{RLO}d{LONE}e\rf\x07g\u2028h\x85i"


@settings(derandomize=True, max_examples=300)
@given(st.text(st.characters()))
def test_one_line_holds_nothing_that_a_terminal_acts_on(text: str) -> None:
    shown = one_line(text)
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in shown)
    assert one_line(shown) == shown
    shown.encode()


@settings(derandomize=True, max_examples=200)
@given(st.text(st.characters()))
def test_lines_keep_their_breaks_and_nothing_else(text: str) -> None:
    shown = lines(text)
    assert len(shown) == len(text)
    assert shown.count("\n") == text.count("\n")
    assert all(same_length(line) == line for line in shown.split("\n"))


def test_ordinary_text_stays_as_it_is() -> None:
    for text in ("shop.send_receipt", "Größe 4 €", "日本語 テスト", "naïve café", "a/b\\c: d=e", ""):
        assert one_line(text) == lines(text) == text
    assert one_line(HOSTILE) == "a [31mb 31mc d e f g h i"


def test_what_raises_when_it_is_shown_is_named() -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    assert text_of(Odd()) == "<a Odd whose text cannot be shown>"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("celery_guardrails.worker")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def harmless(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


def test_a_record_is_clean_whatever_it_is_made_of(written: io.StringIO) -> None:
    logger = logging.getLogger("celery_guardrails.worker")
    logger.warning("%s[%s] failed: %r", HOSTILE, ValueError(f"x\nWARNING forged {ESC}"), f"{RLO}\n")
    logger.warning("%(name)s %(count)d", {"name": HOSTILE, "count": 3})
    logger.warning("%d of %.1f, %s", 3, 4.0, None)
    text = written.getvalue()
    assert harmless(text)
    assert len(text.splitlines()) == 3
    assert text.splitlines()[-1] == "WARNING 3 of 4.0, None"


def test_a_traceback_is_clean_and_none_of_its_lines_passes_for_a_record(written: io.StringIO) -> None:
    try:
        raise ValueError(f"first\nWARNING forged\n{HOSTILE}")
    except ValueError:
        logging.getLogger("celery_guardrails.worker").warning("it failed", exc_info=True)
    first, *rest = written.getvalue().splitlines()
    assert first == "WARNING it failed"
    assert harmless(written.getvalue())
    assert rest
    assert all(line.startswith("  ") for line in rest)
