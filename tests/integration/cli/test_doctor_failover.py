"""`guardrails doctor` with several addresses of one broker: it names the one that answered, and those that do not."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.conftest import Broker
from tests.integration.cli.ward import Ward
from tests.port import reserve_port
from tests.reaper import reaper
from tests.servers import RedisServer, find_program
from tests.waiting import wait_until

DEAD = {"redis": "redis://:secret@127.0.0.1:1/0", "rabbitmq": "amqp://u:secret@127.0.0.1:1/v"}
SHOWN = {"redis": "redis://:**@127.0.0.1:1/0", "rabbitmq": "amqp://u:**@127.0.0.1:1/v"}


@pytest.mark.parametrize("as_list", [True, False])
def test_the_first_address_is_dead(broker: Broker, ward: Callable[..., Ward], as_list: bool) -> None:
    urls = [DEAD[broker.name], broker.url]
    found = ward(urls if as_list else ";".join(urls)).look()["broker"]
    assert [finding.level.value for finding in found] == ["ok", "warning"]
    assert f"at {broker.url.replace(':guest@', ':**@')} answers" in found[0].found
    assert found[1].found.startswith(f"{SHOWN[broker.name]}, one of 2 addresses in broker_url, does not answer")
    assert "secret" not in str(found)


def test_another_than_the_first_is_dead(broker: Broker, ward: Callable[..., Ward]) -> None:
    found = ward(f"{broker.url};{DEAD[broker.name]}").look()["broker"]
    assert f"at {broker.url.replace(':guest@', ':**@')} answers" in found[0].found
    assert found[1].found.startswith(SHOWN[broker.name])


def test_no_address_answers(ward: Callable[..., Ward]) -> None:
    (found,) = ward(f"{DEAD['redis']};redis://127.0.0.1:2/0").wrong()["broker"]
    assert found.startswith(f"none of {SHOWN['redis']}, redis://127.0.0.1:2/0 answers")


@pytest.fixture
def sentinel(own_redis: RedisServer, tmp_path: Path) -> Iterator[int]:
    """The port of a Sentinel that watches the tests' Redis under the name `main`."""
    port = reserve_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {own_redis.port} 1\n")
    program = find_program("redis-server", "valkey-server", install="redis-server")
    process = subprocess.Popen([program, str(conf), "--sentinel"], stdout=subprocess.DEVNULL)
    reaper().watch(process.pid)
    try:
        with redis.Redis(port=port) as client:

            def is_up() -> bool:
                try:
                    return bool(client.ping())
                except redis.RedisError:
                    return False

            wait_until(is_up, 30, "the Sentinel answers")
        yield port
    finally:
        process.terminate()
        process.wait(20)
        reaper().forget(process.pid)


def test_a_sentinel_is_dead(sentinel: int, own_redis: RedisServer, ward: Callable[..., Ward]) -> None:
    options = {"broker_transport_options": {"master_name": "main"}}
    found = ward(f"sentinel://127.0.0.1:1;sentinel://127.0.0.1:{sentinel}", options).look()["broker"]
    assert [finding.level.value for finding in found] == ["ok", "warning"]
    assert f"at sentinel://127.0.0.1:{sentinel}" in found[0].found
    assert f"(which leads to 127.0.0.1:{own_redis.port}) answers" in found[0].found
    assert found[1].found.startswith("sentinel://127.0.0.1:1")
