"""From when the deadline counts, whatever a message's `eta` says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery

from celery_guardrails.letters.header import HEADER
from celery_guardrails.worker.failure.failed_run import STARTED, examine

NOW = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
SENT = NOW - timedelta(hours=3)


def begins(failing: Any, eta: Any, retries: int = 0, **header: Any) -> datetime:
    """From when the deadline of an attempt counts that fails now."""
    told = {"v": 1, "published_at": SENT.timestamp(), **header}
    failing.push_request(id="1", eta=eta, retries=retries, **{HEADER: told, STARTED: NOW.timestamp()})
    try:
        return examine(failing, failing.request, ConnectionError("down")).history.published_at
    finally:
        failing.pop_request()


@pytest.mark.parametrize("eta", [None, "", "soon", 7, ["x"], "9999-99-99T00:00:00"])
def test_without_an_eta_that_can_be_read_from_the_publish(failing: Any, eta: Any) -> None:
    assert begins(failing, eta) == SENT


def test_from_the_eta_of_the_first_attempt_alone(failing: Any) -> None:
    due = NOW - timedelta(minutes=5)
    assert begins(failing, due.isoformat()) == due
    assert begins(failing, due.isoformat(), retries=1) == SENT
    assert begins(failing, due.isoformat(), retries=1, due_at=NOW.timestamp() - 60) == NOW - timedelta(seconds=60)


def test_an_eta_without_time_zone_is_utc_as_in_celery(new_app: Callable[..., Celery], quick: Any) -> None:
    @quick(new_app(timezone="Asia/Kolkata"))
    def failing() -> None: ...

    due = NOW - timedelta(minutes=5)
    assert begins(failing, due.replace(tzinfo=None).isoformat()) == due


@pytest.mark.parametrize("eta", [NOW + timedelta(hours=9), datetime(9999, 12, 31, tzinfo=timezone.utc)])
def test_what_runs_before_it_is_due_counts_from_now(failing: Any, eta: datetime) -> None:
    """Somebody had it run earlier (`retries run-now`)."""
    assert begins(failing, eta.isoformat()) == NOW


def test_work_that_was_put_back_counts_from_then(failing: Any) -> None:
    assert begins(failing, None, requeued_at=NOW.timestamp() - 9, due_at=NOW.timestamp()) == NOW - timedelta(seconds=9)
