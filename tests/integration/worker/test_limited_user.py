"""A user of RabbitMQ who may declare nothing, as on many managed brokers: what is declared for it is enough."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from celery_guardrails.transport.waiting.level import LEVELS
from tests.conftest import Broker
from tests.harness import Harness, Process
from tests.integration.limited import Limited
from tests.waiting import wait_until

APP = "tests.apps.limited"
SLOW = 180.0
"""Seconds for a command, or for what a worker does, on a busy machine."""
ALONE = ("--without-mingle", "--without-gossip")


class Application:
    """The application of `tests/apps/limited.py`, its processes and what its tasks did."""

    def __init__(self, broker: Broker, backend: str, harness: Harness) -> None:
        self.limited = Limited(broker)
        self.admin = broker
        self.harness = harness
        harness.environment.update(
            BROKER_URL=self.limited.url, RESULT_BACKEND=backend, LIMITED_RUNS=str(harness.folder), COLUMNS="300"
        )
        path = Path(__file__).parents[2] / "apps" / "limited.py"
        spec = importlib.util.spec_from_file_location(f"limited_{self.limited.vhost}", path)
        assert spec is not None
        assert spec.loader is not None
        self.tasks: Any = importlib.util.module_from_spec(spec)
        with mock.patch.dict(os.environ, harness.environment):
            sys.modules[spec.name] = self.tasks
            spec.loader.exec_module(self.tasks)

    def topology(self, *options: str) -> str:
        done = self.harness.run(APP, "guardrails", "topology", *options, bound=SLOW)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def declare(self, *, levels: bool = True) -> None:
        """As the administrator, all that `topology` lists; without the delay levels where the test wants so."""
        found = json.loads(self.topology("--definitions"))
        if not levels:
            for kind in ("queues", "exchanges"):
                found[kind] = [each for each in found[kind] if not each["name"].startswith("celery_delayed")]
            found["bindings"] = [each for each in found["bindings"] if not each["source"].startswith("celery_delayed")]
        self.limited.declare(json.dumps(found), self.harness.folder)

    def worker(self) -> Process:
        return self.harness.worker(APP, *ALONE)

    def runs(self, key: str) -> list[float]:
        path = self.harness.folder / key
        return [float(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, key: str, count: int) -> list[float]:
        wait_until(lambda: len(self.runs(key)) >= count, SLOW, lambda: f"{count} runs of {key}: {self.runs(key)}")
        return self.runs(key)

    def archived(self) -> dict[str, int]:
        done = self.harness.run(APP, "guardian", "--once", "--json", bound=SLOW)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def doctor(self, *options: str) -> dict[str, list[dict[str, Any]]]:
        done = self.harness.run(APP, "guardrails", "doctor", "--json", *options, bound=SLOW)
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in json.loads(done.stdout):
            rows.setdefault(row["check"], []).append(row)
        return rows

    def spooled(self) -> list[Path]:
        return [path for path in (self.harness.folder / "spool").glob("*") if path.is_file()]

    def close(self) -> None:
        from celery_guardrails.app.guardrails import Guardrails

        Guardrails.of(self.tasks.app).publisher.close()
        self.tasks.app.pool.force_close_all()
        self.tasks.app.close()


@pytest.fixture
def make(rabbitmq_broker: Broker, result_backend: str, harness: Harness) -> Iterator[Callable[[], Application]]:
    made: list[Application] = []

    def start() -> Application:
        made.append(Application(rabbitmq_broker, result_backend, harness))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_all_works_once_an_administrator_has_declared_it(make: Callable[[], Application]) -> None:
    app = make()
    app.declare()
    worker = app.worker()
    work = app.tasks.work
    begun = time.time()
    work.apply_async(("later",), countdown=2)
    work.delay("retried", 2)
    work.delay("exhausted", 9)
    assert app.wait_for("later", 1)[0] - begun >= 2
    for key in ("retried", "exhausted"):
        first, second, third = app.wait_for(key, 3)
        assert min(second - first, third - second) >= 1
    worker.wait_for_log("dead-letter")
    assert app.spooled() == []
    assert app.archived()["archived"] == 1
    done = app.harness.run(
        APP, "guardrails", "dlq", "requeue", "task:limited.work", "--reason", "again", "--yes", bound=SLOW
    )
    assert done.returncode == 0, done.stderr
    app.wait_for("exhausted", 6)
    assert "wait in the memory of workers" not in worker.log()
    looked = app.doctor("--self-test")
    (prepared,) = looked["self-test: prepared"]
    assert "the canary needs a queue of its own: RabbitMQ refuses access" in prepared["found"]
    assert [row["level"] for row in looked["dead letters"]] != []
    assert {row["level"] for name in ("dead letters", "waiting") for row in looked[name]} <= {"ok", "warning"}
    assert [row["found"] for row in looked["rights"] if row["level"] == "fault"] == []
    assert worker.stop() == 0


def test_a_recovery_is_reported(make: Callable[[], Application]) -> None:
    app = make()
    app.declare()
    app.worker()
    app.tasks.work.delay("recovers", 3)
    app.wait_for("recovers", 3)
    wait_until(lambda: app.archived()["archived"] == 1, SLOW, "the dead letter")
    done = app.harness.run(
        APP, "guardrails", "dlq", "requeue", "task:limited.work", "--reason", "again", "--yes", bound=SLOW
    )
    assert done.returncode == 0, done.stderr
    app.wait_for("recovers", 4)
    wait_until(lambda: app.archived()["recovered"] == 1, SLOW, "the recovery")


def test_without_the_levels_a_retry_waits_in_the_worker_and_is_said_to(make: Callable[[], Application]) -> None:
    app = make()
    app.declare(levels=False)
    worker = app.worker()
    worker.wait_for_log("RabbitMQ's delay levels do not exist, so retries and countdowns wait in the memory of workers")
    assert f"rabbitmqctl set_permissions -p {app.limited.vhost} {app.limited.user} '^(limited" in worker.log()
    begun = time.time()
    app.tasks.work.apply_async(("later",), countdown=2)
    app.tasks.work.delay("retried", 2)
    assert app.wait_for("later", 1)[0] - begun >= 2
    first, second, third = app.wait_for("retried", 3)
    assert min(second - first, third - second) >= 1
    worker.wait_for_log("wait in the memory of workers for now: RabbitMQ refuses access")
    (found,) = [row for row in app.doctor()["waiting"] if row["level"] == "fault"]
    assert "retries do not wait outside the workers" in found["found"]
    assert "has no right to configure the queue 'celery_delayed_delivery'" in found["found"]
    assert app.spooled() == []


def test_a_letter_whose_queue_nobody_declared_stays_in_the_spool_until_somebody_does(
    make: Callable[[], Application],
) -> None:
    app = make()
    app.declare()
    with app.admin.server.admin(app.limited.vhost) as channel:  # type: ignore[union-attr]
        channel.queue_delete("limited.dead")
        channel.queue_delete("limited.dead.recovered")
    worker = app.worker()
    missing = f"the user '{app.limited.user}' has no right to configure the queue 'limited.dead'"
    worker.wait_for_log(missing)
    app.tasks.work.delay("exhausted", 9)
    app.wait_for("exhausted", 3)
    wait_until(lambda: len(app.spooled()) == 1, SLOW, "the letter in the spool")
    worker.wait_for_log(f"the queue 'limited.dead' does not exist, and {missing}")
    done = app.harness.run(APP, "guardian", "--once", bound=SLOW)
    assert done.returncode == 1
    assert "the broker refuses this guardian: RabbitMQ refuses access: the queue 'limited.dead' does not" in done.stderr
    assert "cannot be reached" not in done.stderr
    (found, *_) = app.doctor()["dead letters"]
    assert (found["level"], missing in found["found"]) == ("fault", True)
    assert "give the rights by the set_permissions line above" in found["fix"]
    app.declare()
    wait_until(lambda: app.spooled() == [], SLOW, "the spool is shipped")
    assert app.archived()["archived"] == 1


def test_without_the_right_to_write_letters_and_retries_stay_in_the_spool(make: Callable[[], Application]) -> None:
    app = make()
    app.declare()
    with app.admin.server.admin(app.limited.vhost) as channel:  # type: ignore[union-attr]
        app.tasks.work.delay("retried", 1)
        wait_until(lambda: channel.queue_declare("work", passive=True).message_count == 1, 30, "the work is there")
        app.limited.allow("", "^work$", ".*")
        worker = app.worker()
        worker.wait_for_log("has no right to write the exchange 'amq.default'")
        worker.wait_for_log("has no right to write the exchange 'celery_delayed_0'")
        app.wait_for("retried", 1)
        wait_until(lambda: len(app.spooled()) == 1, SLOW, "the retry in the spool")
        assert {row["level"] for row in app.doctor()["rights"]} >= {"fault"}
        app.limited.allow("", ".*", ".*")
        app.wait_for("retried", 2)
        assert channel.queue_declare("limited.dead", passive=True).message_count == 0


def test_a_binding_that_may_not_be_made_is_said(make: Callable[[], Application]) -> None:
    app = make()
    app.declare()
    app.limited.allow("", "^(amq[.]default|celery_delayed_[0-9]+)$", ".*")
    worker = app.worker()
    refused = f"RabbitMQ refuses access: the user '{app.limited.user}' has no right to write the queue 'work'"
    worker.wait_for_log(f"messages that wait in the levels do not reach it: {refused}")
    assert any(refused in row["found"] for row in app.doctor()["waiting"])


def test_with_the_rights_that_topology_names_all_is_well(make: Callable[[], Application]) -> None:
    app = make()
    app.declare()
    rights = json.loads(app.topology("--json"))["rights"]
    app.limited.allow(rights["configure"], rights["write"], rights["read"])
    worker = app.worker()
    app.tasks.work.delay("exhausted", 9)
    app.wait_for("exhausted", 3)
    wait_until(lambda: app.archived()["archived"] == 1, SLOW, "the dead letter")
    looked = app.doctor("--self-test", "--timeout", "150s")
    tested = {name: rows[0] for name, rows in looked.items() if name.startswith("self-test")}
    assert [row["found"] for row in tested.values() if row["level"] != "ok"] == []
    assert "self-test: recovered" in tested
    assert [(row["level"], row["found"]) for row in looked["rights"]] == [
        ("ok", f"the user {app.limited.user} has the rights that guardrails needs")
    ]
    assert "has no right" not in worker.log()


def test_what_is_imported_is_what_a_user_with_all_rights_declares(make: Callable[[], Application]) -> None:
    """Otherwise RabbitMQ would refuse one of the two for its other arguments."""
    app = make()
    app.declare()
    app.harness.environment["BROKER_URL"] = app.admin.url
    app.worker()
    app.tasks.work.apply_async(("later",), countdown=1)
    app.tasks.work.delay("exhausted", 9)
    app.wait_for("later", 1)
    app.wait_for("exhausted", 3)
    wait_until(lambda: app.archived()["archived"] == 1, SLOW, "the dead letter")
    assert {row["level"] for row in app.doctor()["dead letters"]} <= {"ok", "warning"}


def test_what_celery_itself_declares_is_said_before_it_ends_worker_and_producer(
    make: Callable[[], Application],
) -> None:
    app = make()
    app.harness.environment["LIMITED_DECLARES"] = "1"
    app.declare()
    shown = json.loads(app.topology("--json"))
    rights = shown["rights"]
    app.limited.allow(rights["configure"], rights["write"], rights["read"])
    ended = app.harness.run(APP, "worker", "-P", "solo", *ALONE, bound=SLOW)
    assert "AccessRefused" in ended.stdout + ended.stderr
    assert "exchange 'work'" in ended.stdout + ended.stderr
    (found,) = app.doctor()["rights"]
    assert found["level"] == "fault"
    assert "may not configure the exchange 'work', which Celery declares at start: workers and producers end" in str(
        found["found"]
    )
    (line,) = shown["task_queues"]
    assert f"write task_queues=[{line}], " in found["fix"]
    assert f"{line}," in app.topology()
    written = (Path(__file__).parents[2] / "apps" / "limited.py").read_text()
    assert f"[{line}]" in written  # so it is what the other tests here work with
    app.limited.allow(".*", ".*", ".*")
    assert [row["level"] for row in app.doctor()["rights"]] == ["ok"]


def test_the_line_that_gives_the_rights_is_shown_once(make: Callable[[], Application]) -> None:
    app = make()
    app.limited.allow("", "", "")
    rows = [row for found in app.doctor().values() for row in found]
    assert sum("rights" in (row["fix"] or "") for row in rows) > 3
    assert sum("rabbitmqctl set_permissions" in (row["fix"] or "") for row in rows) == 1


def test_topology_for_people(make: Callable[[], Application]) -> None:
    app = make()
    shown = app.topology()
    for name in (*LEVELS, "limited.dead", "limited.dead.recovered", "celery_delayed_delivery"):
        assert name in shown
    assert f"rabbitmqctl set_permissions -p {app.limited.vhost} {app.limited.user} " in shown
