"""The dead man's switch of a guardian as it is assembled: it beats while all is well, and tells nobody its URL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from celery_guardrails import clock
from celery_guardrails.cli.daemon.assembly import Assembly, assembled
from celery_guardrails.cli.project import Project
from celery_guardrails.guardian.beacon import Beacon
from celery_guardrails.testing.server import Answer
from tests.unit.cli.conftest import Shop
from tests.waiting import wait_until
from tests.web import Web

SECRET = "hunter2xyz"


@dataclass
class Watched:
    """An assembled guardian, its beacon, and the service that it calls."""

    made: Assembly
    beacon: Beacon
    web: Web

    def beat(self) -> int:
        """Run the beacon as the guardian does, and wait for the request under way; how many have come so far."""
        self.made.alerts.run_once(clock.now())
        self.beacon.run_once(clock.now(), flush=False)
        if self.beacon._under_way is not None:
            self.beacon._under_way.join(30)
        return len(self.web.requests)


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as standing_in:
        yield standing_in


@pytest.fixture
def watched(shop: Shop, web: Web) -> Iterator[Watched]:
    shop.archive()
    shop.app.conf.guardrails |= {"alerts": {"heartbeat_url": f"{web.address}/{SECRET}"}}
    with assembled(Project(shop.app)) as made:
        (beacon,) = [each for each in made.guardian._runner.services if isinstance(each, Beacon)]
        yield Watched(made, beacon, web)


def test_it_fetches_the_url_while_all_is_well(watched: Watched) -> None:
    assert watched.beat() == 1
    assert watched.beat() == 2
    assert {(each.method, each.path) for each in watched.web.requests} == {("GET", f"/{SECRET}")}
    assert watched.beacon.every == timedelta(minutes=1)
    assert any("heartbeat_url" in line for line in watched.made.introduction())
    assert SECRET not in "".join(watched.made.introduction())


def test_a_guardian_that_does_not_post_alerts_leaves_it_alone(watched: Watched, web: Web) -> None:
    watched.made.alerts.poster.leads = False
    watched.beacon.run_once(clock.now(), flush=False)
    assert watched.beacon._under_way is None


def test_no_beat_while_the_archive_cannot_be_written(
    watched: Watched, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    assert watched.beat() == 1
    with locked(watched, shop):
        watched.beacon.run_once(clock.now(), flush=False)
        watched.beacon.run_once(clock.now(), flush=False)
        assert len(watched.web.requests) == 1
    assert caplog.text.count("no heartbeat is sent: the archive cannot be written") == 1
    assert watched.beat() == 2
    assert "heartbeats are sent again" in caplog.text


@contextmanager
def locked(watched: Watched, shop: Shop) -> Iterator[None]:
    """The archive as it is while somebody else writes to it for long."""
    engine = watched.made.store.engine
    event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA busy_timeout = 50").close())
    engine.dispose()
    with shop.store.begin():
        yield


def test_no_beat_while_the_broker_is_away(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.made.guardian._away.add("the broker")
    assert watched.beat() == 0
    assert "no heartbeat is sent: the broker is away" in caplog.text
    watched.made.guardian._away.clear()
    assert watched.beat() == 1


def test_no_beat_while_a_sink_does_not_take_alerts(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    poster = watched.made.alerts.poster
    poster._lines["log"].circuit.open(clock.now())
    watched.beacon.run_once(clock.now(), flush=False)
    assert watched.beacon._under_way is None
    poster.leads = True
    watched.beacon.run_once(clock.now(), flush=False)
    assert "no heartbeat is sent: log does not take alerts" in caplog.text
    assert watched.beat() == 1  # nothing waits for this sink


@pytest.mark.parametrize("answer", [Answer(404), Answer(500), Answer(drop=True)], ids=lambda each: str(each.status))
def test_a_service_that_refuses_is_logged_once_without_the_url(
    watched: Watched, web: Web, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    web.answer_with = answer
    for _ in range(3):
        watched.beat()
    assert caplog.text.count("the heartbeat was not taken") == 1
    web.answer_with = Answer()
    watched.beat()
    assert "heartbeats are sent again" in caplog.text
    assert SECRET not in caplog.text


def test_a_service_that_does_not_listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    beacon = Beacon(f"http://127.0.0.1:1/{SECRET}", lambda: True, list)
    beacon.run_once(clock.now(), flush=False)
    assert beacon._under_way is not None
    beacon._under_way.join(30)
    assert "the heartbeat was not taken: ConnectionRefusedError" in caplog.text
    assert SECRET not in caplog.text


def test_a_service_that_hangs_holds_up_nobody_and_costs_one_thread(web: Web) -> None:
    web.answer_with = Answer(after=600)  # stopping the server ends it
    beacon = Beacon(f"{web.address}/{SECRET}", lambda: True, list, timeout=600)
    beacon.run_once(clock.now(), flush=False)
    assert web.wait_for(1, 30) == 1
    for _ in range(5):
        beacon.run_once(clock.now(), flush=False)
    assert beacon._under_way is not None
    assert beacon._under_way.is_alive()
    web.stop()
    beacon._under_way.join(30)
    assert len(web.requests) == 1


def test_the_guardian_runs_it(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    stop = threading.Event()
    running = threading.Thread(target=watched.made.guardian.run, args=(stop,))
    running.start()
    try:
        wait_until(lambda: watched.web.requests, 30, "the first beat")
    finally:
        stop.set()
        running.join(30)


def test_who_sets_no_url_has_none(shop: Shop) -> None:
    shop.archive()
    with assembled(Project(shop.app)) as made:
        assert not [each for each in made.guardian._runner.services if isinstance(each, Beacon)]


def test_commands_name_it_and_not_its_url(shop: Shop, web: Web) -> None:
    shop.archive()
    shop.app.conf.guardrails |= {"alerts": {"heartbeat_url": f"{web.address}/{SECRET}"}}
    with assembled(Project(shop.app)) as made:
        watched: list[Callable[..., Any]] = [each.run_once for each in made.guardian._runner.services[:1]]
        watched[0](clock.now(), flush=False)  # the sign of life
        check = shop.run("guardian", "--check")
        doctor = shop.run("doctor")
    assert "alerts.heartbeat_url is set" in check.stderr
    assert "alerts.heartbeat_url each minute" in " ".join(doctor.output.split())
    assert SECRET not in check.output + doctor.output
