"""Keys: the same for the same work in every process, and refused where they could not be."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.idempotency.key import UnusableKey, digest_of, key_of_arguments, key_of_text


class Colour(Enum):
    RED = "red"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_equal_values_have_one_digest_whatever_the_order_of_a_dict(value: object) -> None:
    assert digest_of(value) == digest_of(_turned(value))


def _turned(value: object) -> object:
    if isinstance(value, dict):
        return {key: _turned(value[key]) for key in reversed(list(value))}
    return [_turned(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True), (1, "1"), (None, "None"), ("a", b"a"), ([1, 2], [2, 1]), ({"a": 1}, {"a": 2}), ([], {}), ([], None),
        ({"a": 1}, [["a", 1]]), (date(2026, 1, 1), "2026-01-01"), (Decimal("1.0"), Decimal("1.00")), (0.1, 0.2),
        ({1: 2}, {"1": 2}), ({"dict": {}}, {}), (["a", ["b"]], [["a"], "b"]), ({1, 2}, [1, 2]),
    ],
)  # fmt: skip
def test_different_values_have_different_digests(one: object, other: object) -> None:
    assert digest_of(one) != digest_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [((1, 2), [1, 2]), ({2, 1}, {1, 2}), (2.0, 2), (Colour.RED, "red"), (bytearray(b"x"), b"x"), ({1: 2}, {1: 2})],
)
def test_what_a_message_makes_equal_is_equal(one: object, other: object) -> None:
    assert digest_of(one) == digest_of(other)


def test_another_process_says_the_same() -> None:
    value = {"a": [1, 2.5, "ä"], "at": datetime(2026, 1, 2, tzinfo=timezone.utc), "s": {"x", "y"}, "id": UUID(int=7)}
    code = (
        "from datetime import *; from uuid import UUID; from celery_guardrails.idempotency.key import digest_of;"
        f"print(digest_of({value!r}.copy()))".replace("datetime.datetime(", "datetime(").replace(
            "datetime.timezone", "timezone"
        )
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == digest_of(value)


def test_what_has_no_lasting_form_is_refused() -> None:
    for value in (object(), [object()], {"a": lambda: None}, {"deep": _nested(80)}):
        with pytest.raises(UnusableKey):
            digest_of(value)


def _nested(depth: int) -> object:
    return [_nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (4711, "is a int, not text"),
        ("", "is empty"),
        ("k" * 513, "has 513 bytes, 512 is the most"),
        ("ä" * 257, "514 bytes"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_a_text_that_is_no_key_is_refused(text: object, words: str) -> None:
    with pytest.raises(UnusableKey, match=words):
        key_of_text("production", "shop.charge", text)


def test_the_longest_key_is_a_key_and_no_two_places_share_one() -> None:
    assert key_of_text("production", "shop.charge", "k" * 512).text == "k" * 512
    digests = {
        key_of_text(environment, scope, text).digest
        for environment, scope, text in [
            ("a", "b", "c"),
            ("ab", "", "c"),
            ("a", "bc", "x"),
            ("a", "b", "cx"),
            ("a", "", "bc"),
        ]
    }
    assert len(digests) == 5


def test_a_key_made_of_arguments_shows_no_value() -> None:
    key = key_of_arguments("production", "shop.charge", {"card": "4111111111111111", "order_id": 7})
    assert "4111" not in key.text
    assert key.text.startswith("card, order_id: ")
    assert key.digest != key_of_text("production", "shop.charge", key.text).digest
