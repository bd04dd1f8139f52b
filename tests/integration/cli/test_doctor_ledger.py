"""What `guardrails doctor` finds of the ledger, with real servers: reachable, its clock, what Redis may forget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import time_machine

from celery_guardrails import clock
from celery_guardrails.cli.doctor.finding import Finding, Level
from tests.conftest import run_server
from tests.integration.cli.ward import Ward
from tests.servers import RedisServer

ONCE = {"policies": {"ward.mail": {"idempotency": {}}}}


@pytest.fixture(scope="module")
def careless_redis() -> Iterator[RedisServer]:
    """A Redis of this file's own, whose configuration the tests change while it runs."""
    yield from run_server(RedisServer)


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where the ledger is; `None`: in the archive."""
    if request.param == "sqlite":
        return None
    fixture = {"postgresql": "migrated_postgresql_url", "redis": "result_backend"}[request.param]
    return str(request.getfixturevalue(fixture))


def ledger(made: Ward) -> list[Finding]:
    """What is found of the ledger."""
    return made.look().get("ledger", [])


def reached(found: list[Finding]) -> Finding:
    """Whether it answers, and its clock."""
    return found[0]


def used(url: str | None) -> dict[str, Any]:
    return ONCE if url is None else {**ONCE, "idempotency": {"url": url}}


@pytest.mark.servers
def test_a_ledger_answers_and_its_clock_is_compared(ward: Callable[..., Ward], url: str | None) -> None:
    made = ward("memory://", **used(url))
    made.archive()
    found = reached(ledger(made))
    assert found.level is Level.OK, found
    assert found.found.endswith("answers, and its clock agrees with this machine's")
    assert url is None or "://127.0.0.1" in found.found or "@" in found.found


@pytest.mark.servers
@pytest.mark.parametrize(("minutes", "words"), [(2, "2 min behind this machine's"), (-2, "2 min ahead of")])
def test_a_clock_that_is_apart(ward: Callable[..., Ward], result_backend: str, minutes: int, words: str) -> None:
    made = ward("memory://", idempotency={"url": result_backend})
    with time_machine.travel(clock.now() + timedelta(minutes=minutes)):
        found = reached(ledger(made))
    assert found.level is Level.WARNING
    assert words in found.found


def test_nothing_is_said_where_nothing_uses_a_ledger(ward: Callable[..., Ward]) -> None:
    made = ward("memory://")
    made.archive()
    assert ledger(made) == []


@pytest.mark.parametrize(
    ("settings", "words", "fix"),
    [
        ({"idempotency": {"url": "redis://:hunter2@127.0.0.1:1/0"}}, "redis://127.0.0.1:1/0", "start its server"),
        ({"idempotency": {"url": "postgresql://a@127.0.0.1:1/none"}}, "127.0.0.1:1/none", "start its server"),
        ({"idempotency": {"url": "memory://"}}, "in each process's memory", "redis://..."),
        (ONCE, "archive.sqlite3", "it is in the archive"),
    ],
)
def test_a_ledger_that_no_task_can_use_is_a_fault(
    ward: Callable[..., Ward], settings: dict[str, Any], words: str, fix: str
) -> None:
    (found,) = ledger(ward("memory://", **settings))
    assert found.level is Level.FAULT
    assert words in found.found
    assert fix in found.fix
    assert "hunter2" not in found.found


def test_a_database_without_the_table_is_a_fault(ward: Callable[..., Ward], tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    (found,) = ledger(ward("memory://", idempotency={"url": f"sqlite:///{tmp_path / 'empty.db'}"}))
    assert found.level is Level.FAULT


@pytest.mark.servers
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"appendonly": "no", "save": ""}, "neither append-only file nor snapshots"),
        ({"appendonly": "no", "save": "900 1"}, "only snapshots (save 900 1)"),
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": "50mb"}, "allkeys-lru: when its memory is full"),
        ({"maxmemory-policy": "volatile-ttl", "maxmemory": "0"}, "volatile-ttl: as soon as a maxmemory is set"),
        ({}, None),
    ],
)
def test_a_redis_that_may_forget_what_is_done_is_a_notice(
    careless_redis: RedisServer, ward: Callable[..., Ward], settings: dict[str, str], words: str | None
) -> None:
    good = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory": "0"}
    with redis.Redis(port=careless_redis.port) as client:
        for key, value in {**good, "maxmemory-policy": "noeviction", **settings}.items():
            client.config_set(key, value)
    made = ward("memory://", idempotency={"url": careless_redis.fresh_url()})
    answers, *notices = ledger(made)
    assert answers.level is Level.OK
    assert len(notices) == (0 if words is None else 1)
    for found in notices:
        assert found.level is Level.NOTICE
        assert words
        assert words in found.found
        assert "Work that is done may then be done again" in found.found
        assert "postgresql://" in found.fix
