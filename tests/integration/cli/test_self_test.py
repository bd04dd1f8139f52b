"""`guardrails doctor --self-test`, as a person runs it, against a real broker, dead-letter queue and archive."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from kombu import Connection, Queue

from celery_guardrails.cli import guardrails
from celery_guardrails.letters.record import SELF_TEST
from celery_guardrails.testing.slack import SlackStandIn
from tests.conftest import Broker
from tests.integration.cli.conftest import ShopProcesses
from tests.unit.cli.conftest import runner
from tests.waiting import wait_until

STEPS = [
    "prepared", "worker", "sent", "failed", "dead-lettered", "archived", "put back", "succeeded", "recovered",
    "cleaned up",
]  # fmt: skip

MakeShop = Callable[..., ShopProcesses]


def self_test(shop: ShopProcesses, *words: str, code: int = 0, **env: str) -> dict[str, dict[str, Any]]:
    """The steps of a self-test, by name."""
    result = shop.run("guardrails", "doctor", "--self-test", *words, "--json", **env)
    assert result.returncode == code, result.stdout + result.stderr
    rows = {row["check"]: row for row in json.loads(result.stdout)}
    return {name.removeprefix("self-test: "): row for name, row in rows.items() if name.startswith("self-test: ")}


@contextmanager
def channel_of(broker: Broker) -> Iterator[Any]:
    with Connection(broker.url) as connection, connection.channel() as channel:
        yield channel


def is_gone(broker: Broker, queue: str) -> bool:
    """Whether nothing of a queue is left on the broker."""
    with channel_of(broker) as channel:
        if broker.name == "redis":
            return not [key for key in channel.client.keys("*") if queue in key.decode()]
        try:
            channel.queue_declare(queue=queue, passive=True)
        except channel.connection.channel_errors:
            return True
    return False


def test_the_canary_dies_and_lives(broker: Broker, make_shop: MakeShop) -> None:
    shop, guardian = make_shop(broker), broker.name == "rabbitmq"
    shop.send("mail.delay(1)")
    if guardian:
        shop.guardian()
    steps = self_test(shop)
    assert [*steps] == STEPS
    assert all(row["level"] == "ok" and row["seconds"] >= 0 for row in steps.values())
    assert ("by the guardian that runs" in steps["archived"]["found"]) == guardian
    assert is_gone(broker, steps["prepared"]["found"].split(": ")[1])

    (letter,) = shop.json("dlq", "list")
    assert (letter["task"], letter["state"], letter["generation"]) == (SELF_TEST, "recovered", 1)
    shown = shop.json("dlq", "show", letter["id"])
    assert [attempt["error"].rpartition(".")[2] for attempt in shown["attempts"]] == [
        "TransientError",
        "PermanentError",
    ]
    assert {entry["reason"] for entry in shown["audit"]} == {"doctor --self-test"}
    assert [entry["action"] for entry in shown["audit"]] == ["requeue", "recover"]
    assert shop.json("alerts", "list") == []
    prefix = shop.harness.environment["SHOP_PREFIX"]
    with channel_of(broker) as channel:
        waiting = channel.queue_declare(queue=f"{prefix}.tasks", passive=True).message_count
    assert waiting == 1  # the application's own task was left alone


def test_what_is_shown_step_by_step(redis_broker: Broker, make_shop: MakeShop) -> None:
    shop = make_shop(redis_broker)
    with SlackStandIn() as slack:
        environment = {
            "GUARDRAILS_SLACK_TOKEN": "xoxb-1", "GUARDRAILS_SLACK_CHANNEL": "#alerts",
            "GUARDRAILS_SLACK_BASE_URL": slack.base_url,
        }  # fmt: skip
        slack.channels["#alerts"] = "C1"
        result = shop.run("guardrails", "doctor", "--self-test", "--alert", **environment)
        (message,) = slack.in_channel()
    assert result.returncode == 0, result.stdout
    shown = result.stdout.split("Self-test\n")[1].splitlines()
    assert [line[9:23].strip() for line in shown] == [*STEPS, "alerted"]
    assert message.text.startswith("Test alert from celery-guardrails (test): the self-test of")


def test_a_dead_letter_queue_that_refuses_is_named(rabbitmq_broker: Broker, make_shop: MakeShop) -> None:
    shop = make_shop(rabbitmq_broker)
    name = f"{shop.harness.environment['SHOP_PREFIX']}.dead"
    with channel_of(rabbitmq_broker) as channel:
        Queue(name, durable=True, queue_arguments={"x-queue-type": "quorum"})(channel).declare()
    steps = self_test(shop, code=1)
    assert [*steps] == [*STEPS[:5], "cleaned up"]
    assert steps["dead-lettered"]["level"] == "fault"
    assert "spooled" in steps["dead-lettered"]["found"]
    assert "queue_arguments" in steps["dead-lettered"]["fix"]
    assert steps["cleaned up"]["level"] == "ok"
    assert is_gone(rabbitmq_broker, steps["prepared"]["found"].split(": ")[1])


def test_a_guardian_on_another_archive_is_named(redis_broker: Broker, make_shop: MakeShop, tmp_path: Path) -> None:
    shop = make_shop(redis_broker)
    assert shop.run("guardrails", "migrate").returncode == 0
    other = f"sqlite:///{tmp_path / 'other.sqlite3'}"
    shop.guardian()
    # the one that is seen here is killed, and another one, of another archive, takes the letters
    shop.harness.processes[-1].kill()
    shop.harness.environment["SHOP_STORE"] = other
    shop.guardian()
    del shop.harness.environment["SHOP_STORE"]
    steps = self_test(shop, "--timeout", "12", code=1)
    assert "the dead letter is not in the archive within 12 seconds" in steps["archived"]["found"]
    assert "this store.url?" in steps["archived"]["fix"]
    assert steps["cleaned up"]["level"] == "ok"


def test_a_worker_that_does_not_come_up_tells_why(redis_broker: Broker, tmp_path: Path) -> None:
    app = Celery("nowhere", broker=redis_broker.url, set_as_current=False)
    app.conf.guardrails = {"store": {"url": f"sqlite:///{tmp_path / 'a.sqlite3'}"}}
    context = CLIContext(app=app, no_color=True, workdir=None)
    result = runner().invoke(guardrails, ["doctor", "--self-test", "--json"], obj=context)
    assert result.exit_code == 1
    steps = {row["check"]: row for row in json.loads(result.stdout)}
    assert "its worker ended (2)" in steps["self-test: worker"]["found"]
    assert "PROJ" in steps["self-test: worker"]["found"]
    assert steps["self-test: cleaned up"]["found"] == "the queue is deleted; nothing was sent"
    app.close()


@pytest.mark.parametrize(
    ("broker_url", "conf", "words"),
    [
        ("memory://", {}, "lives in one process"),
        ("filesystem://", {"guardrails": {"enabled": False}}, "enabled is False"),
    ],
)
def test_where_there_can_be_no_self_test(tmp_path: Path, broker_url: str, conf: dict[str, Any], words: str) -> None:
    app = Celery("nowhere", broker=broker_url, set_as_current=False)
    folder = str(tmp_path)
    app.conf.update(broker_transport_options={"data_folder_in": folder, "data_folder_out": folder}, **conf)
    if broker_url == "memory://":
        app.conf.broker_transport_options = {}
    context = CLIContext(app=app, no_color=True, workdir=None)
    result = runner().invoke(guardrails, ["doctor", "--self-test"], obj=context)
    assert result.exit_code == 1
    assert words in result.stdout.split("Self-test")[1]
    assert "there was nothing to clean up" in result.stdout
    app.close()


def test_a_command_that_is_killed_leaves_no_worker(rabbitmq_broker: Broker, make_shop: MakeShop) -> None:
    shop = make_shop(rabbitmq_broker)
    doctor = shop.harness.start("tests.integration.cli.shop_app", "guardrails", "doctor", "--self-test")
    wait_until(lambda: child_of(doctor.pid), 60, "its worker")
    worker = child_of(doctor.pid)
    doctor.kill()
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), 60, "its worker's end")


def child_of(parent: int) -> int | None:
    """The pid of the canary's worker of this command."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command, status = (entry / "cmdline").read_bytes(), (entry / "stat").read_text()
            except OSError:
                continue
            if (
                b"cli.doctor.self_test.worker_process" in command
                and int(status.rpartition(")")[2].split()[1]) == parent
            ):
                return int(entry.name)
    return None
