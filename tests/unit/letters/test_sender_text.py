"""What the sender shows of its arguments stands in place of ours, without what is to be hidden by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from celery_guardrails.letters.record import Preview
from celery_guardrails.letters.sender_text import SenderText
from celery_guardrails.redaction import MASK, Redactor

OURS = Preview(args="('ada', 'Lovelace')", kwargs="{}")


def test_each_text_takes_the_place_of_ours_alone() -> None:
    assert SenderText().over(OURS, [], 100) is OURS
    shown = SenderText(args="('ada', '****')").over(OURS, [], 100)
    assert (shown.args, shown.kwargs, shown.truncated) == ("('ada', '****')", "{}", False)
    assert SenderText(kwargs="").over(OURS, [], 100).kwargs == ""
    cut = SenderText(args="x" * 101).over(OURS, [], 100)
    assert (cut.args, cut.truncated) == ("x" * 100 + "...", True)


@pytest.mark.parametrize(
    ("text", "secret", "shown"),
    [
        ("('ada', 'hunter2')", "hunter2", f"('ada', {MASK})"),
        ('["ada", "hunter2"]', "hunter2", f'["ada", "{MASK}"]'),
        ("('ada', 1234)", 1234, f"('ada', {MASK})"),
        ("('ada', 12345)", 1234, "('ada', 12345)"),
        ("('ada', 'a very long sec...", "a very long secret", f"('ada', {MASK}..."),
        ("(None, True, '')", None, "(None, True, '')"),
        ("('ada',)", "", "('ada',)"),
    ],
)
def test_what_is_to_be_hidden_by_name_stays_hidden(text: str, secret: Any, shown: str) -> None:
    assert SenderText(args=text).over(OURS, [secret], 100).args == shown


@given(st.text("abcdefgh'\"\\\n ", min_size=4, max_size=30), st.text("0123456789,() ", max_size=20))
def test_no_secret_is_left_in_a_text_that_holds_it(secret: str, rest: str) -> None:
    # blanks stand in the rest, too, and the mask itself spells a few words
    assume(any(char.isalpha() for char in secret) and secret not in MASK)
    shown = SenderText(args=repr((rest, secret))).over(OURS, [secret], 10_000).args
    assert secret not in shown
    assert repr(secret)[1:-1] not in shown


def test_a_value_that_the_sender_hid_is_hidden_everywhere() -> None:
    sender = SenderText(args="('ada', '****', 100)", kwargs="{'order': 7, 'note': '...'}")
    values = {
        "user": "ada",
        "maiden": "Lovelace",
        "code": "10",
        "order": "7",
        "note": "n",
        "many": ("ada", "100", "Grace", "Hopper"),
    }
    assert sender.seen(values, {"order", "note"}) == {
        "user": "ada", "maiden": MASK, "code": MASK, "order": "7", "note": MASK,
        "many": ("ada", "100", MASK),
    }  # fmt: skip
    assert SenderText().seen(values, ()) == values


def test_hidden_values_are_those_that_are_masked() -> None:
    redactor = Redactor(["maiden"])
    value = {"user": "ada", "password": "hunter2", "card": {"number": 4711}, "list": [["token", "abc"], ["x", "y"]]}
    found = list(redactor.hidden(value))
    assert found == ["hunter2", {"number": 4711}, 4711, "abc"]
    assert list(redactor.hidden("Lovelace", "maiden")) == ["Lovelace"]
    assert list(redactor.hidden(["a", "b"], "maiden")) == [["a", "b"], "a", "b"]
    nested: Any = "deep"
    for _ in range(50):
        nested = {"password": nested}
    assert list(redactor.hidden(nested))


@given(st.text("ab.", max_size=40), st.text("ab.", min_size=1, max_size=14))
def test_no_beginning_of_a_secret_is_left_before_an_ellipsis(text: str, secret: str) -> None:
    """What a cut leaves of a value, at least four characters of it, is hidden; a text without it stays."""
    shown = SenderText(args=text).over(Preview(), [secret], 100).args
    left = [secret[:length] for length in range(4, len(secret)) if f"{secret[:length]}..." in shown]
    assert left == []
    if secret not in text and not any(f"{secret[:length]}..." in text for length in range(4, len(secret))):
        assert shown == text
