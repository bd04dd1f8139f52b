from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_guardrails.store.engine import Store, open_store
from tests.archive import migrated_file
from tests.conftest import Broker
from tests.integration.guardian.bench import Bench


@pytest.fixture
def bench(broker: Broker, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(broker.url, tmp_path)
    yield made
    made.close()


@pytest.fixture
def on_redis(redis_broker: Broker, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(redis_broker.url, tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An archive on every kind of database."""
    is_file = request.param == "sqlite"
    url = migrated_file(tmp_path / "archive.db") if is_file else request.getfixturevalue("migrated_postgresql_url")
    opened = open_store(url)
    yield opened
    opened.close()
