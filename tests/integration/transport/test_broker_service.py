"""What workers and guardians do for a broker now and then, and how they meet one that is away."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import pytest

from celery_guardrails.errors import PublishError, SpoolError
from celery_guardrails.transport.service import SpoolShipping, WaitingRelease
from celery_guardrails.transport.waiting.eta import EtaWaiting
from tests.integration.transport.dock import NOW, QUEUE, Dock, publish_counter


@pytest.mark.own_lines
def test_the_service_asks_a_broker_that_is_away_less_and_less(
    away: Dock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = away.fill(3)
    service = SpoolShipping(away.shipper)
    asked = publish_counter(away.line.publisher, monkeypatch)
    for second in range(20):
        assert service.run_once(NOW + timedelta(seconds=second), flush=False) == 0
    assert len(asked) == 6  # at 0, 1, 3, 7, 12 and 17 seconds
    assert caplog.text.count("wait in the spool") == 1
    assert service.run_once(NOW - timedelta(hours=1), flush=False) == 0  # the clock was set back
    assert len(asked) == 7
    away.line.broker.server.start()
    assert service.run_once(NOW, flush=True) == 3
    assert service.every == timedelta(seconds=5)
    assert service.run_once(NOW, flush=False) == 0
    assert set(away.line.bodies(QUEUE)) == bodies


def test_the_service_goes_on_at_once_while_there_is_more(dock: Dock) -> None:
    dock.fill(501)
    service = SpoolShipping(dock.shipper)
    assert service.run_once(NOW, flush=False) == 500
    assert service.every == timedelta(0)
    assert service.run_once(NOW, flush=False) == 1
    assert service.every == timedelta(seconds=5)


def test_the_service_tells_once_of_a_spool_that_cannot_be_used(
    dock: Dock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock.fill(1)
    service = SpoolShipping(dock.shipper)

    def fail() -> list[str]:
        raise SpoolError(str(dock.spool.directory), "Permission denied")

    monkeypatch.setattr(dock.spool, "names", fail)
    for second in (0, 5, 15):
        assert service.run_once(NOW + timedelta(seconds=second), flush=False) == 0
    assert caplog.text.count("Permission denied") == 1
    monkeypatch.setattr(dock.spool, "names", lambda: 1 / 0)
    assert SpoolShipping(dock.shipper).run_once(NOW, flush=False) == 0
    assert "ZeroDivisionError" in caplog.text


class Releasing(EtaWaiting):
    """Has so many due messages in each pass, or an error."""

    released = True

    def __init__(self, passes: list[int | Exception]) -> None:
        self.passes = passes

    def release_due(self, now: datetime, most: int = 1000) -> int:
        found = self.passes.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


@pytest.mark.own_lines
def test_releasing_is_lively_while_there_is_something_to_do(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    away = PublishError("waiting", "away")
    waiting = Releasing([0, 1000, 1000, 7, away, RuntimeError("odd"), 0])
    service = WaitingRelease(waiting)
    assert service.run_once(NOW, flush=False) == 0
    assert service.every == timedelta(seconds=1)
    assert service.run_once(NOW, flush=False) == 2007
    assert service.every == timedelta(milliseconds=250)
    for second in (0, 0.5, 1, 2, 3):
        service.run_once(NOW + timedelta(seconds=second), flush=False)
    assert waiting.passes == []
    assert caplog.text.count("cannot be moved") == 1
    assert caplog.text.count("are moved to their queues again") == 1
