from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
