from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.clock import format_duration, from_epoch, now, parse_duration, shown


@pytest.mark.parametrize(
    "value",
    ["", " ", "soon", "5 parsecs", "-5s", -1, float("nan"), float("inf"), 1e300, 10**40, True, None, [], b"5s", "9999d",
     timedelta(seconds=-1), timedelta(days=4000)],
    ids=repr,
)  # fmt: skip
def test_what_is_not_a_duration_is_refused_in_words(value):
    with pytest.raises(ValueError, match=r"not a duration|not between"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0), (1.5, 1.5), ("90s", 90), ("5m", 300), ("2h", 7200), ("14d", 14 * 86400), ("1h30m", 5400), (" 5s ", 5),
     (timedelta(minutes=1), 60), ("0s", 0)],
)  # fmt: skip
def test_durations_are_read_as_users_write_them(value, seconds):
    assert parse_duration(value) == timedelta(seconds=seconds)


@given(st.integers(0, 3650 * 86_400_000))
def test_a_written_duration_is_read_back(millis):
    delta = timedelta(milliseconds=millis)
    assert parse_duration(format_duration(delta)) == delta


def test_instants_are_aware_utc():
    with time_machine.travel(datetime(2026, 1, 2, tzinfo=timezone.utc), tick=False):
        assert now() == datetime(2026, 1, 2, tzinfo=timezone.utc)
        assert now().tzinfo is timezone.utc
    assert from_epoch(0) == datetime(1970, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (-5, "0 s"), (0.0004, "1 ms"), (0.25, "250 ms"), (0.9996, "1 s"), (1.7, "1.7 s"), (3.75, "3.8 s"),
        (48.4, "48 s"), (59.6, "1 min"), (200, "3 min 20 s"), (4800, "1 h 20 min"), (7200, "2 h"), (273_600, "3 d 4 h"),
    ],
)  # fmt: skip
def test_durations_that_people_read(seconds: float, text: str) -> None:
    assert shown(timedelta(seconds=seconds)) == text
