"""`guardrails retries` on real brokers: what waits there, running it now, and cancelling it without losing it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import Broker
from tests.integration.cli.conftest import ShopProcesses
from tests.waiting import wait_until

MakeShop = Callable[..., ShopProcesses]
LATER = "mail.apply_async((1,), {'password': 'hunter2'}, countdown=3600, compression='zlib')"


@pytest.fixture
def shop(redis_broker: Broker, make_shop: MakeShop) -> ShopProcesses:
    """The shop on Redis, where two tasks wait for an hour and one for two, and no worker runs."""
    made = make_shop(redis_broker)
    made.send(f"{LATER}\nmail.apply_async((2,), countdown=7200)\nimport_.apply_async(('x',), countdown=3600)")
    return made


def prefix_of(shop: ShopProcesses) -> str:
    return shop.harness.environment["SHOP_PREFIX"]


def test_what_waits_is_listed_run_or_cancelled(shop: ShopProcesses) -> None:
    listed = shop.json("retries", "list")
    assert [entry["task"] for entry in listed] == ["shop.mail", "shop.import", "shop.mail"]
    assert [entry["attempt"] for entry in listed] == [1, 1, 1]
    assert {entry["queue"] for entry in listed} == {f"{prefix_of(shop)}.tasks"}
    assert 3000 < listed[0]["due_in"] <= 3600
    shown = shop.run("guardrails", "retries", "list", "--task", "shop.m*")
    assert "hunter2" not in shown.stdout
    assert shown.stderr.strip() == "2 waiting tasks."

    # run-now: a worker gets it at once, though it was meant to wait for an hour
    shop.repair()
    assert shop.run("guardrails", "retries", "run-now", listed[0]["task_id"]).returncode == 0
    worker = shop.worker(pool="solo")
    wait_until(lambda: (shop.folder / "sent").exists(), 60, "the mail")
    assert (shop.folder / "sent").read_text() == "1\n"
    assert [entry["id"] for entry in shop.json("retries", "list")] == [entry["id"] for entry in listed[1:]]

    # cancel: a dead letter that says who and why, and can be put back
    done = shop.json("retries", "cancel", listed[2]["id"][:8], "--reason", "order withdrawn", "--by", "ada")
    assert done["done"] == [listed[2]["id"]]
    assert [entry["id"] for entry in shop.json("retries", "list")] == [listed[1]["id"]]
    assert shop.run("guardian", "--once").returncode == 0
    (letter,) = shop.json("dlq", "list", "--reason", "cancelled")
    assert letter["id"] == done["letters"][0]
    assert "ada cancelled it" in shop.json("dlq", "show", letter["id"])["explanation"]
    assert shop.run("guardrails", "dlq", "requeue", letter["id"], "--reason", "after all").returncode == 0
    wait_until(lambda: (shop.folder / "sent").read_text() == "1\n2\n", 60, "the second mail")
    assert worker.stop() == 0


def test_a_compressed_task_that_was_cancelled_can_be_put_back(shop: ShopProcesses) -> None:
    (first, *_) = shop.json("retries", "list")
    assert shop.json("retries", "cancel", first["id"], "--reason", "x")["failed"] == []
    again = shop.run("guardrails", "retries", "cancel", first["id"], "--reason", "x")
    assert (again.returncode, "nothing waits under this id" in again.stderr) == (1, True)
    assert shop.run("guardian", "--once").returncode == 0
    (letter,) = shop.json("dlq", "list")
    shown = shop.json("dlq", "show", letter["id"])
    assert shown["args_preview"] == "(1,)"
    assert "hunter2" not in shown["kwargs_preview"]
    assert shop.run("guardrails", "dlq", "requeue", letter["id"], "--reason", "x").returncode == 0
    shop.repair()
    worker = shop.worker(pool="solo")
    wait_until(lambda: (shop.folder / "sent").exists(), 60, "the mail")
    assert worker.stop() == 0


def test_a_retry_tells_why_it_waits(redis_broker: Broker, make_shop: MakeShop) -> None:
    shop = make_shop(redis_broker)
    shop.harness.environment["SHOP_BACKOFF"] = "10m"
    worker = shop.worker(pool="solo")
    shop.send("mail.delay(7)")
    wait_until(lambda: shop.json("retries", "list"), 60, "a retry that waits", every=0.3)
    (entry,) = shop.json("retries", "list")
    assert entry["attempt"] == 2
    assert (entry["last_error"]["type"], entry["last_error"]["message"]) == ("TimeoutError", "smtp did not answer")
    assert "TimeoutError: smtp did not answer" in shop.run("guardrails", "retries", "list").stdout
    moved = shop.json("retries", "run-now", "--task", "shop.mail")
    assert (moved["matched"], moved["moved"]) == (1, 1)
    assert worker.stop() == 0


def test_rabbitmq_cannot_list_and_says_so(rabbitmq_broker: Broker, make_shop: MakeShop) -> None:
    shop = make_shop(rabbitmq_broker)
    result = shop.run("guardrails", "retries", "list", "--json")
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.strip().splitlines()
    assert "they wait by RabbitMQ's delayed-delivery levels" in line


def test_a_broker_that_is_down_is_told_in_one_line(make_shop: MakeShop) -> None:
    result = make_shop().run("guardrails", "retries", "list", SHOP_BROKER="redis://127.0.0.1:1/0")
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert "Connection refused" in line
