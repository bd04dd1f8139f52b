"""No worker: one alert instead of one for each task, on every database and both brokers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from celery_guardrails import GuardedTask, clock
from celery_guardrails.alerts.condition import OWN_HEALTH
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.cli.daemon.alerting import waiting_work
from celery_guardrails.guardian.absence import Absence, NoWorker
from celery_guardrails.guardian.figures import FigureCounting
from celery_guardrails.store import worker_report
from celery_guardrails.store.engine import Store, open_store
from celery_guardrails.transport.consumer import DeadLetterConsumer
from celery_guardrails.transport.depth import depth
from celery_guardrails.transport.figures import FiguresSender, declared_figures_queue, figures_queue
from celery_guardrails.worker.main.figures import FiguresShipping
from tests.archive import migrated_file
from tests.conftest import Broker

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)


class Night:
    """A guardian that looks at minutes after `NOW`, and what it is told."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.away, self.waiting, self.missed = False, "3 messages wait in mail", False
        self.listening_since: datetime | None = NOW - timedelta(hours=1)
        self.absence = Absence(store, "production", lambda: self.away)
        self.source = NoWorker(
            self.absence, lambda: self.listening_since, lambda: self.waiting, lambda now: self.missed
        )

    def report(self, minutes: float, environment: str = "production") -> None:
        with self.store.begin() as conn:
            worker_report.note(conn, [environment], NOW + minutes * MINUTE)

    def look(self, minutes: float) -> list[str] | None:
        found = self.source.find(NOW + minutes * MINUTE)
        assert found is None or {each.task for each in found} <= {OWN_HEALTH}
        return None if found is None else [each.summary for each in found]

    def explains(self, minutes: float) -> bool:
        return self.absence.explains(NOW + minutes * MINUTE)


def test_no_worker_reports_and_work_waits(store: Store) -> None:
    night = Night(store)
    assert night.look(0) == []  # nobody has ever seen a worker: a new application
    night.report(0)
    assert [night.look(minutes) for minutes in (1, 4.9)] == [[], []]
    assert not night.explains(4.9)
    assert night.look(5) == ["No worker has reported for 5 min, and 3 messages wait in mail"]
    assert night.explains(5)
    night.report(6, "staging")
    assert night.look(8) == ["No worker has reported for 8 min, and 3 messages wait in mail"]
    night.report(9)
    assert night.look(9) == []
    # the figures of the last half hour still show it
    assert [night.explains(minutes) for minutes in (37.9, 38)] == [True, False]


def test_nothing_waits_and_nothing_is_missed(store: Store) -> None:
    night = Night(store)
    night.report(0)
    night.waiting = ""
    assert night.look(10) == []
    assert not night.explains(10)
    night.missed = True
    assert night.look(11) == ["No worker has reported for 11 min, and much less is done than usual"]


@pytest.mark.parametrize("listening_since", [None, NOW + 6 * MINUTE])
def test_a_guardian_that_has_not_listened_does_not_know(store: Store, listening_since: datetime | None) -> None:
    night = Night(store)
    night.report(0)
    night.listening_since = listening_since
    assert night.look(10) is None
    assert night.explains(10)


def test_a_broker_that_is_away_explains_it_too(store: Store) -> None:
    night = Night(store)
    night.report(0)
    night.away = True
    assert night.look(6) is None
    night.away = False
    assert [night.explains(minutes) for minutes in (35.9, 36)] == [True, False]


def test_a_broker_that_does_not_say_what_waits_changes_nothing(store: Store) -> None:
    night = Night(store)
    night.report(0)
    night.waiting = None  # type: ignore[assignment]
    assert night.look(6) is None


@pytest.fixture
def app(broker: Broker) -> Iterator[Celery]:
    made = Celery("night", broker=broker.url, set_as_current=False)
    made.conf.guardrails = {"dead_letter": {"queue": "t.dead"}}
    made.conf.task_default_queue = "t.work"
    made.conf.task_routes = {"night.other": {"queue": "t.other"}}
    made.task(body, name="night.work", base=GuardedTask)
    made.task(body, name="night.other", base=GuardedTask)
    made.finalize()
    yield made
    made.close()


def body() -> None:
    """Nobody runs it."""


def test_what_a_worker_sends_and_what_a_broker_says(app: Celery, tmp_path: Path) -> None:
    store, guardrails, now = open_store(migrated_file(tmp_path / "archive.db")), Guardrails.of(app), clock.now()
    counting = FigureCounting(store, DeadLetterConsumer(app, [declared_figures_queue("t.dead")]))
    worker: Any = FiguresShipping(guardrails, "celery@a")
    worker._sender = FiguresSender(app, "t.dead", timeout=20.0)
    absence = Absence(store, "production", lambda: False)
    source = NoWorker(absence, lambda: counting.listening_since, lambda: waiting_work(guardrails), lambda now: False)
    counting.run_once(now, flush=False)
    assert counting.listening_since == now
    assert worker.run_once(now - MINUTE, flush=False) == 0
    assert worker.run_once(now, flush=False) == 1
    while counting.counted < 1:
        counting.run_once(now, flush=False)
    assert absence.last_report() == now
    assert source.find(now + 5 * MINUTE) == []
    for task in ("night.work", "night.work", "night.other"):
        app.tasks[task].delay()
    (found,) = source.find(now + 6 * MINUTE) or ()
    assert found.summary == "No worker has reported for 6 min, and 3 messages wait in t.other, t.work"
    worker.finish(now)
    counting.close()
    store.close()


@pytest.mark.own_lines
def test_the_last_figures_reach_a_broker_that_takes_five_seconds(app: Celery, broker: Broker) -> None:
    """A worker that ends sends no figures later; those of its last ten seconds would be lost."""
    guardrails, now = Guardrails.of(app), clock.now()
    shipping = FiguresShipping(guardrails, "celery@a")
    guardrails.counters.note_dead(str(uuid4()), "night.work")
    broker.server.pause()
    slow = threading.Timer(5.0, broker.server.resume)
    slow.start()
    try:
        shipping.finish(now)
    finally:
        slow.join()
    with app.connection_for_read() as connection:
        assert depth(connection, figures_queue("t.dead")) == 1
