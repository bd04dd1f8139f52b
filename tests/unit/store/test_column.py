"""What a text column takes: no database refuses it, and two values stay two."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.store.column import INDEXED, clean, cut, key_of, plausible, reference_of, shortened

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)
# without `categories`, hypothesis leaves surrogates out
anything = st.text(st.characters(), max_size=600) | st.text(st.sampled_from("a\0\ud800\udfff\U0001f600"), max_size=450)


@given(anything)
def test_what_a_column_gets_no_database_refuses(value: str) -> None:
    for made in (clean(value), cut(value), key_of(value), reference_of(value), shortened(value, 40)):
        assert "\0" not in made
        made.encode()
    assert len(cut(value)) <= INDEXED
    assert len(key_of(value)) <= 100
    assert len(reference_of(value)) <= 64


@given(anything)
def test_what_was_made_is_left_alone(value: str) -> None:
    for make in (clean, cut, key_of, reference_of):
        assert make(make(value)) == make(value)


@given(st.text(st.characters(), min_size=401, max_size=500), st.text(st.characters(), min_size=1, max_size=9))
def test_long_values_that_begin_alike_stay_two(value: str, more: str) -> None:
    for make in (cut, key_of, reference_of):
        assert make(value) != make(value + more)


@pytest.mark.parametrize(("one", "other"), [("a\0", "a\ufffd"), ("a\ud800", "a?"), ("a\ud800", "a\udfff")])
def test_odd_ids_stay_two(one: str, other: str) -> None:
    assert key_of(one) != key_of(other)
    assert reference_of(one) != reference_of(other)


def test_a_clock_may_be_wrong_by_a_day_and_is_set() -> None:
    ahead = NOW + timedelta(hours=23)
    assert plausible(ahead, NOW) == ahead
    assert plausible(NOW + timedelta(days=2), NOW) == NOW
    assert plausible(NOW - timedelta(days=4000), NOW) == NOW - timedelta(days=4000)
    assert plausible(datetime(1970, 1, 3, tzinfo=timezone.utc), NOW) == NOW, "retention would remove it at once"
