"""Which columns give way on a narrow terminal, and where long words are broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.cli.width import broken, longest_piece, shared, spare

FOLDED, PIECES, FIXED = {3: 17, 4: 9}, {3: 7, 4: 9}, {0: 8, 1: 4, 2: 3}
LEAST = [FOLDED, PIECES, FIXED]


def test_where_there_is_room_nothing_gives_way() -> None:
    assert shared(100, (8, 4, 8, 17, 18), LEAST) == [8, 4, 8, 17, 18]


def test_lines_break_between_words_then_within_them_then_in_what_is_fixed() -> None:
    assert shared(58, (8, 4, 8, 17, 18), LEAST) == [8, 4, 8, 17, 13]
    assert shared(48, (8, 4, 8, 17, 18), LEAST) == [8, 4, 8, 11, 9]
    assert shared(42, (8, 4, 8, 17, 18), LEAST) == [8, 4, 6, 7, 9]


def test_where_nothing_fits_words_and_pieces_stay_whole() -> None:
    assert shared(20, (8, 4, 8, 17, 18), LEAST) == [8, 4, 3, 7, 9]


def test_an_error_gets_what_is_left_or_a_line_of_its_own() -> None:
    assert spare(80, (8, 4, 60), 2) == 60
    assert spare(80, (8, 4, 90), 2) == 64
    assert spare(80, (30, 20, 90), 2) is None
    assert spare(80, (30, 20, 10), 2) == 10


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("shop.send_receipt", 10, "shop.send_\nreceipt"),
        ("attempts_exhausted", 11, "attempts_\nexhausted"),
        ("celery@vm", 7, "celery@\nvm"),
        ("shop.mail", 20, "shop.mail"),
        ("a sentence of words", 5, "a sentence of words"),
    ],
)
def test_long_words_are_broken_at_their_joints(text: str, width: int, shown: str) -> None:
    assert broken(text, width) == shown


@given(st.text("ab._ -", max_size=40), st.integers(1, 20))
def test_nothing_of_a_text_is_lost(text: str, width: int) -> None:
    lines = broken(text, width)
    assert lines.replace("\n", "") == text
    longest = max(longest_piece(text), width)
    assert all(len(word) <= longest for line in lines.split("\n") for word in line.split())
