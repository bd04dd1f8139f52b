"""Fixtures for all tests: real servers, started when the first test wants one, and a harness for real processes.

A server that is not on this machine skips the test with the install hint, or fails it where
`GUARDRAILS_REQUIRE_SERVERS=1`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

from tests.harness import Harness
from tests.rabbitmq import RabbitMQServer
from tests.servers import RedisServer, Server, ServerMissing
from tests.servers_postgres import PostgreSQLServer

# No test depends on how fast the machine is. Everywhere, `make test` and CI included, property tests draw the same
# examples each time, so that a change is never blamed for what chance has drawn. GUARDRAILS_RANDOM_SEARCH=10 draws
# at random instead, ten times as many as usual: for whoever looks for what nobody has thought of.
_SEARCH = int(os.environ.get("GUARDRAILS_RANDOM_SEARCH") or 0)
settings.register_profile("guardrails", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=100 * max(1, _SEARCH))
settings.load_profile("search" if _SEARCH else "guardrails")

_S = TypeVar("_S", bound=Server)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Broker:
    """A broker of one test's own: `url` names a Redis database or a RabbitMQ virtual host that nobody has used."""

    name: str
    url: str
    server: RedisServer | RabbitMQServer


def run_server(kind: Callable[[], _S]) -> Iterator[_S]:
    """The body of a fixture that runs one private server; skips or fails where it is not installed."""
    try:
        server = kind()
    except ServerMissing as missing:
        if os.environ.get("GUARDRAILS_REQUIRE_SERVERS") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A private Redis. A test that stops, kills or pauses it need not bring it back for `broker`'s next user."""
    yield from run_server(RedisServer)


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMQServer]:
    """A private RabbitMQ. A test that stops, kills or pauses it need not bring it back for `broker`'s next user."""
    yield from run_server(RabbitMQServer)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """A private PostgreSQL."""
    yield from run_server(PostgreSQLServer)


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """A broker of the test's own: the test runs once on Redis and once on RabbitMQ."""
    server = request.getfixturevalue(f"{request.param}_server")
    server.start()
    return Broker(request.param, server.fresh_url(), server)


@pytest.fixture
def redis_broker(redis_server: RedisServer) -> Broker:
    """A broker of the test's own, on Redis only."""
    redis_server.start()
    return Broker("redis", redis_server.fresh_url(), redis_server)


@pytest.fixture
def rabbitmq_broker(rabbitmq_server: RabbitMQServer) -> Broker:
    """A broker of the test's own, on RabbitMQ only."""
    rabbitmq_server.start()
    return Broker("rabbitmq", rabbitmq_server.fresh_url(), rabbitmq_server)


@pytest.fixture
def result_backend(redis_server: RedisServer) -> str:
    """The URL of a result backend of the test's own (a Redis database)."""
    redis_server.start()
    return redis_server.fresh_url()


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    """Starts real workers, guardians and commands in `tmp_path`, and ends them after the test."""
    made = Harness(tmp_path)
    yield made
    made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show, with a failure, how the logs of the test's processes end."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Harness) and value.processes:
                report.sections.append(("process logs", value.log_tails()))
    return report
