"""Fixtures for all tests: real servers, started when the first test wants one, and a harness for real processes.

A server that is not on this machine skips the test with the install hint, or fails it where
`GUARDRAILS_REQUIRE_SERVERS=1`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings

from tests.harness import Harness
from tests.line import Line
from tests.rabbitmq import RabbitMQServer
from tests.servers import RedisServer, Server, ServerMissing
from tests.servers_postgres import PostgreSQLServer
from tests.shared_server import RunClient, RunServers, SharedServer
from tests.spreading import rank, scheduler

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


_RUN = pytest.StashKey[RunServers | RunClient]()


def pytest_configure(config: pytest.Config) -> None:
    """The process that leads the run has the servers that all its processes share."""
    given = getattr(config, "workerinput", None)
    config.stash[_RUN] = RunServers() if given is None else RunClient(given["servers"])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Called in xdist's controller for each test process: say where the shared servers are asked for."""
    node.workerinput["servers"] = node.config.stash[_RUN].listen()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Called in xdist's controller: who runs what."""
    return scheduler(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests, those that take longest come first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank(item.nodeid))


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the servers with the run."""
    config.stash[_RUN].close()


@dataclass(frozen=True)
class Broker:
    """A broker of one test's own: `url` names a Redis database or a RabbitMQ virtual host that nobody has used."""

    name: str
    url: str
    server: Any
    """A `SharedServer`; with the mark `own_servers` or `own_lines` one that the test can stop and pause."""


@contextmanager
def present() -> Iterator[None]:
    """Skip, or fail where servers are required, when the server is not installed."""
    try:
        yield
    except ServerMissing as missing:
        if os.environ.get("GUARDRAILS_REQUIRE_SERVERS") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


def run_server(kind: Callable[[], _S]) -> Iterator[_S]:
    """The body of a fixture that runs one private server; skips or fails where it is not installed."""
    with present():
        server = kind()
    try:
        server.start()
        yield server
    finally:
        server.close()


def _shared(config: pytest.Config, kind: str) -> SharedServer:
    with present():
        return SharedServer(config.stash[_RUN].ask, kind)


@pytest.fixture(scope="session")
def shared_redis(pytestconfig: pytest.Config) -> SharedServer:
    """The run's Redis, which other tests use at the same time."""
    return _shared(pytestconfig, "redis")


@pytest.fixture(scope="session")
def shared_rabbitmq(pytestconfig: pytest.Config) -> SharedServer:
    """The run's RabbitMQ, which other tests use at the same time."""
    return _shared(pytestconfig, "rabbitmq")


@pytest.fixture(scope="session")
def shared_postgresql(pytestconfig: pytest.Config) -> SharedServer:
    """The run's PostgreSQL, which other tests use at the same time."""
    return _shared(pytestconfig, "postgresql")


@pytest.fixture(scope="session")
def kept_redis() -> Iterator[RedisServer]:
    """The private Redis of this test process, as the test before has left it."""
    yield from run_server(RedisServer)


@pytest.fixture
def own_redis(kept_redis: RedisServer) -> RedisServer:
    """A private Redis, which runs. A test that stops, kills or pauses it need not bring it back."""
    kept_redis.start()
    return kept_redis


@pytest.fixture(scope="session")
def kept_rabbitmq() -> Iterator[RabbitMQServer]:
    """The private RabbitMQ of this test process, as the test before has left it."""
    yield from run_server(RabbitMQServer)


@pytest.fixture
def own_rabbitmq(kept_rabbitmq: RabbitMQServer) -> RabbitMQServer:
    """A private RabbitMQ, which runs. A test that stops, kills or pauses it need not bring it back."""
    kept_rabbitmq.start()
    return kept_rabbitmq


@pytest.fixture
def line_rabbitmq(shared_rabbitmq: SharedServer) -> Iterator[Line]:
    """The run's RabbitMQ over a line that the test can cut and hold."""
    line = Line(shared_rabbitmq)
    yield line
    line.close()


@pytest.fixture(scope="session")
def kept_postgresql() -> Iterator[PostgreSQLServer]:
    """The private PostgreSQL of this test process, as the test before has left it."""
    yield from run_server(PostgreSQLServer)


@pytest.fixture
def own_postgresql(kept_postgresql: PostgreSQLServer) -> PostgreSQLServer:
    """A private PostgreSQL, which runs. A test that stops, kills or pauses it need not bring it back."""
    kept_postgresql.start()
    return kept_postgresql


def _broker(request: pytest.FixtureRequest, kind: str) -> Iterator[Broker]:
    whose = _whose(request.node, kind)
    server = request.getfixturevalue(f"{whose}_{kind}")
    server.start()
    url = server.fresh_url()
    yield Broker(kind, url, server)
    if whose != "shared" and server.is_running:
        server.resume()  # nobody else may wait for it, such as connections that are collected later
    server.release(url)


def _whose(test: pytest.Item, kind: str) -> str:
    """Which of the servers of this kind a test has: the run's, a private one, or the run's over a line of its own."""
    if test.get_closest_marker("own_servers"):
        return "own"
    if test.get_closest_marker("own_lines"):
        return "line" if kind == "rabbitmq" else "own"  # Redis starts in an instant
    return "shared"


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker of the test's own: the test runs once on Redis and once on RabbitMQ."""
    yield from _broker(request, request.param)


@pytest.fixture
def redis_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker of the test's own, on Redis only."""
    yield from _broker(request, "redis")


@pytest.fixture
def rabbitmq_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker of the test's own, on RabbitMQ only."""
    yield from _broker(request, "rabbitmq")


@pytest.fixture
def result_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a result backend of the test's own (a Redis database)."""
    for made in _broker(request, "redis"):
        yield made.url


@pytest.fixture
def postgresql_url(shared_postgresql: SharedServer) -> Iterator[str]:
    """A PostgreSQL database of the test's own, empty."""
    url = shared_postgresql.fresh_url()
    yield url
    shared_postgresql.release(url)


@pytest.fixture
def migrated_postgresql_url(shared_postgresql: SharedServer) -> Iterator[str]:
    """A PostgreSQL database of the test's own with the archive's tables, which are empty."""
    url = shared_postgresql.migrated_url()
    yield url
    shared_postgresql.release(url)


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
