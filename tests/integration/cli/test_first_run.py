"""The first run on PostgreSQL, and a guardian that is there before its database, or killed: the real processes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.conftest import Broker
from tests.integration.cli.conftest import APP, ShopProcesses
from tests.servers_postgres import PostgreSQLServer
from tests.waiting import wait_until


def test_several_guardians_make_the_archive_in_an_empty_database(
    redis_broker: Broker, own_postgresql: PostgreSQLServer, make_shop: Callable[..., ShopProcesses]
) -> None:
    shop = make_shop(redis_broker)
    shop.harness.environment["SHOP_STORE"] = own_postgresql.fresh_url()
    nothing = shop.run("guardrails", "dlq", "list")
    assert f"no archive yet: start a guardian (celery -A {APP} guardian)" in nothing.stderr
    asked = shop.run("guardian", "--check")
    assert asked.returncode == 1
    assert asked.stderr.strip() == nothing.stderr.strip()
    several = [shop.harness.guardian(APP, "--once") for _ in range(3)]
    assert [process.wait(120) for process in several] == [0, 0, 0]
    guardian = shop.guardian()
    assert shop.json("dlq", "list") == []
    assert guardian.stop() == 0


@pytest.mark.parametrize("embedded", [False, True])
def test_a_guardian_that_is_there_before_its_database_waits(
    redis_broker: Broker, own_postgresql: PostgreSQLServer, make_shop: Callable[..., ShopProcesses], embedded: bool
) -> None:
    shop = make_shop(redis_broker)
    shop.harness.environment["SHOP_STORE"] = own_postgresql.fresh_url()
    own_postgresql.stop()
    if embedded:
        process = shop.worker("--guardian", pool="solo")
    else:
        process = shop.harness.guardian(APP, ready="dead letters stay in their queue")
    process.wait_for_log("dead letters stay in their queue; the guardian tries again until it answers")
    own_postgresql.start()
    process.wait_for_log("it answers again")
    process.wait_for_log("guardian started")
    assert process.log().count("dead letters stay in their queue") == 1
    assert shop.json("dlq", "list") == []
    assert process.stop() == 0


def test_a_guardian_that_was_killed_is_dead_within_half_a_minute(shop: ShopProcesses) -> None:
    guardian = shop.guardian()
    wait_until(lambda: shop.run("guardian", "--check").returncode == 0, 30, "its first sign of life")
    guardian.kill()
    wait_until(lambda: shop.run("guardian", "--check").returncode == 1, 60, "its death to be seen", every=1.0)
    said = shop.run("guardian", "--check")
    assert f"celery -A {APP} guardian" in said.stderr
    assert json.loads(shop.run("guardian", "--check", "--json").stdout)["alive"] == []


def test_doctor_strict_fails_on_warnings(shop: ShopProcesses) -> None:
    guardian = shop.guardian()
    # a broker of files has no time limits to praise, but a warning or two, and no fault
    lenient, strict = shop.run("guardrails", "doctor"), shop.run("guardrails", "doctor", "--strict")
    assert "0 faults" in lenient.stderr, lenient.stdout
    assert (lenient.returncode, strict.returncode) == (0, 1)
    assert guardian.stop() == 0
