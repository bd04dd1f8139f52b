"""The guardian's loop without a broker: when it serves, waits, and takes letters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, cast

import pytest

from celery_guardrails.errors import StoreError
from celery_guardrails.guardian import guardian as module
from celery_guardrails.guardian.guardian import Guardian
from celery_guardrails.guardian.health import Health
from celery_guardrails.guardian.ingest import IngestReport
from celery_guardrails.transport.consumer import ConsumerLost

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


class Broker:
    """A consumer whose every call is remembered; `receive` ends the loop after so many."""

    def __init__(self, letters: Sequence[str] = (), rounds: int = 10) -> None:
        self.letters = list(letters)
        self.calls: list[str] = []
        self.stop = threading.Event()
        self.rounds = rounds
        self.lost_in_linger = False

    def receive(self, most: int, wait: float) -> list[str]:
        self.calls.append("receive")
        if self.calls.count("receive") >= self.rounds:
            self.stop.set()
        taken, self.letters = self.letters, []
        return taken

    def linger(self, seconds: float) -> None:
        self.calls.append("linger")
        if self.lost_in_linger:
            raise ConsumerLost("closed")
        self.stop.wait(seconds)

    def settle(self, deliveries: Sequence[str]) -> None:
        self.calls.append(f"settle {len(deliveries)}")

    def hold(self, deliveries: Sequence[str]) -> None: ...

    def close(self) -> None:
        self.calls.append("close")


class Archive:
    """An ingest whose archive is away for so many tries."""

    def __init__(self, broker: Broker, away: int) -> None:
        self.broker = broker
        self.away = away

    def run_once(self, deliveries: Sequence[str], now: datetime) -> IngestReport[Any]:
        self.broker.calls.append("archive")
        self._ask()
        return IngestReport(list(deliveries), archived=len(deliveries))

    def probe(self) -> None:
        self.broker.calls.append("probe")
        self._ask()

    def _ask(self) -> None:
        self.away -= 1
        if self.away >= 0:
            raise StoreError("sqlite:///x", "locked")


class Service:
    """Counts its runs; fails while told so."""

    def __init__(self, name: str, every: timedelta, fails: int = 0) -> None:
        self.name, self.every, self.fails = name, every, fails
        self.ran: list[datetime] = []

    def run_once(self, now: datetime, flush: bool) -> None:
        self.ran.append(now)
        if len(self.ran) <= self.fails:
            raise StoreError("sqlite:///x", "locked")


def guardian(
    broker: Broker, archive: Archive, services: Sequence[Service] = (), now: Callable[[], datetime] = lambda: NOW
) -> Guardian:
    return Guardian(cast(Any, broker), cast(Any, archive), cast(Any, services), now)


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.02)


def test_a_clock_that_is_set_back_stalls_no_service() -> None:
    broker = Broker()
    service = Service("hourly", timedelta(minutes=10))
    times = iter([NOW, NOW])
    guardian(broker, Archive(broker, 0), [service], lambda: next(times, NOW - timedelta(days=1))).run(broker.stop)
    assert service.ran == [NOW, NOW - timedelta(days=1)]


def test_a_service_runs_as_often_as_it_says_now() -> None:
    broker = Broker()
    service = Service("lively", timedelta(seconds=5))
    seconds = iter(range(100))

    def now() -> datetime:
        return NOW + timedelta(seconds=next(seconds))

    daemon = guardian(broker, Archive(broker, 0), [service], now)
    daemon._runner.serve(now)
    daemon._runner.serve(now)
    assert len(service.ran) == 1
    service.every = timedelta(0)
    daemon._runner.serve(now)
    assert len(service.ran) == 2


def test_a_service_that_fails_is_told_of_once_and_left_alone_for_a_moment(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker()
    service = Service("alerts", timedelta(milliseconds=500), fails=3)
    daemon = guardian(broker, Archive(broker, 0), [service])
    for tenth in range(120):
        daemon._runner.serve(lambda at=NOW + timedelta(seconds=tenth / 10): at)
    assert [(at - NOW).total_seconds() for at in service.ran[:5]] == [0, 1, 3, 7, 7.5]
    assert caplog.text.count("the service alerts failed, and is tried again: ") == 1
    assert caplog.text.count("the service alerts runs again") == 1


def test_a_batch_stays_in_hand_while_the_archive_is_away() -> None:
    broker = Broker(["a", "b"])
    service = Service("heartbeat", timedelta(0))
    daemon = guardian(broker, Archive(broker, 4), [service])
    daemon.run(broker.stop)
    told = [call for call in broker.calls if call != "linger"]
    assert told[:7] == ["receive", "archive", "archive", "archive", "archive", "archive", "settle 2"]
    assert "linger" in broker.calls
    assert broker.calls.count("close") == 1
    assert daemon.troubles == 4
    assert len(service.ran) > 5


def test_its_health_names_what_is_away_until_it_answers() -> None:
    broker = Broker(["a"])
    health = Health(lambda: NOW)
    archive = Archive(broker, 2)
    seen: list[dict[str, str]] = []

    class Watcher(Service):
        def run_once(self, now: datetime, flush: bool) -> None:
            seen.append(health.problems())

    watcher = Watcher("watcher", timedelta(0))
    Guardian(cast(Any, broker), cast(Any, archive), [watcher], lambda: NOW, health).run(broker.stop)
    assert "locked; dead letters stay unacknowledged" in seen[0]["the archive"]
    assert seen[-1] == {}


def test_nothing_is_taken_before_the_archive_is_back() -> None:
    broker = Broker(["a"])
    broker.lost_in_linger = True
    guardian(broker, Archive(broker, 3), []).run(broker.stop)
    assert broker.calls[:7] == ["receive", "archive", "linger", "probe", "probe", "probe", "receive"]
