"""What a guardian says of itself: well only after it has looked at its queues, and not for long."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from celery_guardrails.guardian.health import LATE, Health

START = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)


class Clock:
    """A clock that somebody sets."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


def test_it_is_not_well_before_its_first_look(health: Health, clock: Clock) -> None:
    assert health.problems() == {"the guardian": "it is starting, and has not looked at its queues yet"}
    clock.at += SECOND
    health.turn()
    assert health.problems() == {}
    clock.at += 2 * SECOND
    assert health.lag() == 2 * SECOND


def test_what_is_away_is_named_until_the_next_look(health: Health) -> None:
    health.trouble("the broker", "refused")
    health.trouble("the archive", "locked")
    assert health.problems() == {"the broker": "refused", "the archive": "locked"}
    health.turn()
    assert health.problems() == {}


def test_a_loop_that_hangs_is_not_well(health: Health, clock: Clock) -> None:
    health.turn()
    clock.at += LATE
    assert health.problems() == {}
    clock.at += SECOND
    assert health.problems() == {"the guardian": "it has not looked at its queues for 31 s"}


def test_a_clock_that_is_set_back_is_no_lag(health: Health, clock: Clock) -> None:
    health.turn()
    clock.at -= timedelta(hours=1)
    assert health.lag() == timedelta(0)
