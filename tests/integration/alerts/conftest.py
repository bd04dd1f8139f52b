"""A migrated archive, a Slack stand-in, and a driver that lets time be a value."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from celery_guardrails import clock
from celery_guardrails.alerts.event import AlertEvent
from celery_guardrails.alerts.service import AlertService, Report
from celery_guardrails.alerts.sinks.build import build_sink
from celery_guardrails.alerts.sinks.sink import Sink
from celery_guardrails.settings import AlertSettings, SlackSettings
from celery_guardrails.store import alert, outbox
from celery_guardrails.store.engine import Store, open_store
from celery_guardrails.testing import SlackStandIn
from tests.archive import migrated_file
from tests.integration.alerts.posters import Posters


@dataclass
class Driver:
    """A service with its store, and the instant at which it is."""

    store: Store
    service: AlertService
    now: datetime
    counter: int = 0
    reports: list[Report] = field(default_factory=list)

    def die(self, count: int = 1, task: str = "shop.OnboardingEmail", **fields: str) -> None:
        events = []
        for _ in range(count):
            self.counter += 1
            known = {
                "ref_id": f"death-{self.counter}",
                "environment": "production",
                "task": task,
                "error": "smtplib.SMTPServerDisconnected",
                "message": "Connection unexpectedly closed",
                "fingerprint": "v1:smtp",
                "reason": "attempts_exhausted",
                "category": "connection",
                "letter_id": f"letter-{self.counter}",
            }
            events.append(AlertEvent(at=self.now, **{**known, **fields}))
        with self.store.begin() as conn:
            alert.record(conn, events)

    def run(self, after: float = 0, *, flush: bool = False) -> Report:
        self.now += timedelta(seconds=after)
        self.reports.append(self.service.run_once(self.now, flush))
        return self.reports[-1]

    def settle(self, within: float = 3600) -> None:
        """Go from one due instant to the next until nothing waits to be delivered."""
        end = self.now + timedelta(seconds=within)
        for _ in range(200):
            due = self.run().delivery.next_due
            if due is None or due > end:
                return
            self.now = max(self.now, due)
        raise AssertionError(f"never settles: {self.statuses()}")

    def statuses(self, kind: str | None = None) -> dict[str, int]:
        """How many notifications have each status; `None`: of all kinds but those to the fallback sink."""
        table = outbox.alert_outbox
        meant = table.c.kind != "fallback" if kind is None else table.c.kind == kind
        with self.store.read() as conn:
            found = conn.execute(select(table.c.status, func.count()).where(meant).group_by(table.c.status))
            return {row[0]: row[1] for row in found}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from _open(migrated_file(tmp_path / "archive.sqlite3"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An archive on every kind of database."""
    if request.param == "sqlite":
        yield from _open(migrated_file(tmp_path / "archive.sqlite3"))
    else:
        yield from _open(request.getfixturevalue("migrated_postgresql_url"))


def _open(url: str) -> Iterator[Store]:
    opened = open_store(url)
    yield opened
    opened.close()


@pytest.fixture
def slack() -> Iterator[SlackStandIn]:
    with SlackStandIn() as standing_in:
        yield standing_in


@pytest.fixture
def drive(store: Store, slack: SlackStandIn):
    """Makes a driver; `webhook=True` for a webhook, else with a token."""

    def make(*, webhook: bool = False, sink: Sink | None = None, slack_settings=None, lease=None, **alerts) -> Driver:
        given = {"webhook_url": slack.webhook_url} if webhook else {"token": "xoxb-test", "channel": "#alerts"}
        settings = SlackSettings(**{**given, "base_url": slack.base_url, "timeout": "1s", **(slack_settings or {})})
        service = AlertService(
            store,
            sink or build_sink(settings),
            AlertSettings(**alerts),
            fallback_channel=settings.fallback_channel,
            lease=lease,
        )
        service.poster._rng = random.Random(1)
        driver = Driver(store, service, clock.now())
        slack.clock = lambda: driver.now.timestamp()
        return driver

    return make


@pytest.fixture(scope="module")
def posters() -> Iterator[Posters]:
    made = Posters()
    yield made
    made.close()
