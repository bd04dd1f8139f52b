"""Which columns give way on a narrow terminal, and where long words are broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.cli.width import broken, longest_piece, shared

TITLES = ("Id", "State", "Died", "Task", "Reason", "Error")


def test_where_there_is_room_nothing_gives_way() -> None:
    assert shared(100, (8, 4, 8, 17, 18, 20), {3: 7, 4: 9}, 5, TITLES) == {}


def test_names_are_broken_before_the_error_is_cut_to_nothing() -> None:
    widths = shared(80, (8, 4, 8, 17, 18, 60), {3: 7, 4: 9}, 5, TITLES)
    assert widths[5] == 24
    assert 10 <= widths[3] < 17
    assert 9 <= widths[4] < 18
    assert sum(widths.values()) + 8 + 4 + 8 + 2 * 5 == 80


def test_where_nothing_fits_titles_and_pieces_stay_whole() -> None:
    assert shared(30, (8, 4, 8, 17, 18, 60), {3: 7, 4: 9}, 5, TITLES) == {3: 7, 4: 9, 5: 12}


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
