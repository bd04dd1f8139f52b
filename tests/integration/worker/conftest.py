from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness
from tests.integration.worker.sharing import Sharing


@pytest.fixture
def make_guarded(harness: Harness, result_backend: str) -> Callable[..., Guarded]:
    """Makes the guarded application on a broker."""

    def make(broker: Broker, **settings: Any) -> Guarded:
        return Guarded(harness, broker.url, result_backend, settings)

    return make


@pytest.fixture
def guarded(broker: Broker, make_guarded: Callable[..., Guarded]) -> Guarded:
    """The guarded application, once on Redis and once on RabbitMQ."""
    return make_guarded(broker)


@pytest.fixture
def on_redis(redis_broker: Broker, make_guarded: Callable[..., Guarded]) -> Guarded:
    """The guarded application on Redis."""
    return make_guarded(redis_broker)


@pytest.fixture
def losing(broker: Broker, harness: Harness, result_backend: str) -> Guarded:
    """The losing application, once on Redis and once on RabbitMQ; Redis gives a lost worker's messages back soon."""
    harness.environment.update(VISIBILITY_TIMEOUT="2")
    return Guarded(harness, broker.url, result_backend, {}, "losing")


@pytest.fixture
def sharing(broker: Broker, harness: Harness, result_backend: str) -> Sharing:
    """The sharing application, on Redis and on RabbitMQ; Redis gives a lost worker's messages back soon."""
    harness.environment.update(VISIBILITY_TIMEOUT="2")
    return Sharing(harness, broker.url, result_backend, {}, "sharing")


@pytest.fixture
def sharing_on_redis(redis_broker: Broker, harness: Harness, result_backend: str) -> Sharing:
    """The same on Redis."""
    return Sharing(harness, redis_broker.url, result_backend, {}, "sharing")
