"""What a guardian says of itself: well only after it has looked at its queues, and not for long."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from celery_guardrails.guardian.health import LATE, Health

START = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)


def test_it_is_not_well_before_its_first_look() -> None:
    health = Health(START)
    assert health.problems(START) == {"the guardian": "it is starting, and has not looked at its queues yet"}
    health.turn(START + SECOND)
    assert health.problems(START + SECOND) == {}
    assert health.lag(START + 3 * SECOND) == 2 * SECOND


def test_what_is_away_is_named_until_the_next_look() -> None:
    health = Health(START)
    health.trouble("the broker", "refused")
    health.trouble("the archive", "locked")
    assert health.problems(START) == {"the broker": "refused", "the archive": "locked"}
    health.turn(START)
    assert health.problems(START) == {}


def test_a_loop_that_hangs_is_not_well() -> None:
    health = Health(START)
    health.turn(START)
    assert health.problems(START + LATE) == {}
    assert health.problems(START + LATE + SECOND) == {"the guardian": "it has not looked at its queues for 31 s"}


def test_a_clock_that_is_set_back_is_no_lag() -> None:
    health = Health(START)
    health.turn(START)
    assert health.lag(START - timedelta(hours=1)) == timedelta(0)
