"""What a worker counts: each attempt of a guarded task once, however it ended, in the figures and in the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_guardrails.figures.summary import Summary
from celery_guardrails.transport.consumer import DeadLetterConsumer
from celery_guardrails.transport.figures import declared_figures_queue
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness, Process
from tests.waiting import wait_until

POOLS = ["prefork", "threads", "solo", "gevent"]


class Counted:
    """The counted application, a worker for it, its figures and its log."""

    def __init__(self, harness: Harness, broker: Broker, backend: str, **settings: Any) -> None:
        self.guarded = Guarded(harness, broker.url, backend, settings, "counted")
        self.tasks = self.guarded.tasks
        harness.environment["LOG_ATTEMPTS"] = "1"
        self._consumer = DeadLetterConsumer(self.guarded.app, [declared_figures_queue(f"{self.guarded.prefix}.dead")])
        self.summaries: list[Summary] = []

    def worker(self, *options: str, pool: str = "prefork") -> Process:
        return self.guarded.worker(*options, pool=pool)

    def receive(self) -> Summary:
        """All figures that have come so far, as one summary."""
        while batch := self._consumer.receive(50, 0.3):
            self.summaries += [Summary.decode(each.body) for each in batch]
            self._consumer.settle(batch)
        total = Summary("total", "test", "any", 0, 1e12, 0.0)
        for each in self.summaries:
            total.merge(each)
        return total

    def lines(self, task: str | None = None) -> list[dict[str, Any]]:
        """The log of attempts, of one task if it is given."""
        path = self.guarded.runs_folder / "attempts.json"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [each for each in found if task in (None, each["task"])]

    def wait_for_lines(self, count: int) -> None:
        wait_until(lambda: len(self.lines()) >= count, 90, lambda: f"{count} lines, there are {self.lines()}")

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def make(harness: Harness, result_backend: str) -> Iterator[Callable[..., Counted]]:
    made: list[Counted] = []

    def one(broker: Broker, **settings: Any) -> Counted:
        made.append(Counted(harness, broker, result_backend, **settings))
        return made[-1]

    yield one
    for each in made:
        each.close()


def send_some(counted: Counted) -> None:
    tasks = counted.tasks
    for number in range(20):
        tasks.add.delay(number, 1)
        tasks.plain.delay()
    tasks.flaky.delay("recovers", 2)
    for number in range(3):
        tasks.flaky.delay(f"dies {number}", 9)
    tasks.by_hand.delay("by hand")
    tasks.expected.delay()
    tasks.parked.delay()
    tasks.signals.delay("ignore")
    tasks.signals.delay("reject")
    tasks.signals.delay("replace")
    tasks.early.delay("early", 1)
    counted.guarded.app.send_task("counted.nobody knows it", queue=f"{counted.guarded.prefix}.tasks")


SENT = {
    "counted.add": {"succeeded": 21},
    "counted.flaky": {"retried": 8, "succeeded": 1, "dead": 3},
    "counted.by_hand": {"retried": 1, "succeeded": 1},
    "counted.expected": {"expected": 1},
    "counted.parked": {"dead": 1},
    "counted.signals": {"ignored": 1, "dead": 1, "replaced": 1},
    "counted.early": {"retried": 1, "succeeded": 1},
}
LINES = 21 + 12 + 2 + 1 + 1 + 3 + 2 + 1


def check(counted: Counted) -> None:
    found = counted.receive()
    assert {name: each.outcomes for name, each in found.tasks.items()} == SENT
    assert (found.others, found.dead_unlisted) == (0, 0)
    assert set(found.dead) == {letter.id for letter in counted.guarded.letters(6)}
    assert sorted(found.dead.values()) == sorted(letter.task for letter in counted.guarded.letters(6))
    flaky, add = found.tasks["counted.flaky"], found.tasks["counted.add"]
    assert flaky.succeeded_at_attempt == {3: 1}
    assert flaky.dead_at_attempt == {3: 3}
    ((fingerprint, times),) = flaky.errors.items()
    assert (times, flaky.error_types[fingerprint]) == (11, "ConnectionError")
    assert flaky.run_time.number == flaky.start_delay.number == 12
    assert add.run_time.number == add.start_delay.number == add.time_to_succeed.number == 21
    assert add.last_started_at is not None
    assert add.last_succeeded_at is not None
    assert found.started_at <= add.last_started_at <= add.last_succeeded_at <= found.ended_at
    assert {each.worker for each in counted.summaries} == {counted.summaries[0].worker}
    assert {each.environment for each in counted.summaries} == {"test"}


def check_lines(counted: Counted) -> None:
    outcomes: dict[str, dict[str, int]] = {}
    for line in counted.lines():
        each = outcomes.setdefault(line["task"], {})
        each[line["outcome"]] = each.get(line["outcome"], 0) + 1
        assert (line["level"] == "WARNING") == (line["outcome"] == "dead")
    assert outcomes == {**SENT, "counted.nobody knows it": {"dead": 1}}


def run(counted: Counted, pool: str, *options: str) -> None:
    worker = counted.worker(*options, pool=pool)
    send_some(counted)
    counted.wait_for_lines(LINES)
    assert worker.stop(60) == 0
    check(counted)
    check_lines(counted)


def test_every_attempt_is_counted_once(broker: Broker, make: Callable[..., Counted]) -> None:
    run(make(broker), "prefork", "-c", "2")


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_every_pool_counts_the_same(redis_broker: Broker, make: Callable[..., Counted], pool: str) -> None:
    run(make(redis_broker), pool)


def test_a_child_that_is_replaced_after_some_tasks_leaves_its_figures(
    redis_broker: Broker, make: Callable[..., Counted]
) -> None:
    run(make(redis_broker), "prefork", "-c", "2", "--max-tasks-per-child", "2")


def test_a_child_that_is_killed_takes_no_figures_with_it(redis_broker: Broker, make: Callable[..., Counted]) -> None:
    counted = make(redis_broker)
    worker = counted.worker("-c", "1")
    for number in range(5):
        counted.tasks.add.delay(number, 1)
    counted.tasks.killed.delay("killed")
    counted.tasks.too_slow.delay()
    counted.wait_for_lines(8)
    main, pids = worker.pid, {line["pid"] for line in counted.lines("counted.add")}
    assert worker.stop(60) == 0
    found = counted.receive()
    assert found.tasks["counted.add"].outcomes == {"succeeded": 5}
    assert found.tasks["counted.killed"].outcomes == {"retried": 1, "dead": 1}
    assert found.tasks["counted.too_slow"].outcomes == {"dead": 1}
    assert len(found.dead) == 2
    assert main not in pids
    lost = counted.lines("counted.killed")
    assert [(line["outcome"], line["category"], line["pid"]) for line in lost] == [
        ("retried", "worker_lost", main),
        ("dead", "worker_lost", main),
    ]


def test_each_attempt_has_a_line(redis_broker: Broker, make: Callable[..., Counted]) -> None:
    counted = make(redis_broker)
    worker = counted.worker("-c", "1")
    secret = "correct horse battery"
    dead = counted.tasks.flaky.delay("order 1", 9, secret=secret, msg="a field of the record itself")
    fine = counted.tasks.add.delay(1, 2)
    counted.wait_for_lines(4)
    lines = counted.lines("counted.flaky")
    assert [(line["attempt"], line["outcome"], line["delay"]) for line in lines] == [
        (1, "retried", 0.1), (2, "retried", 0.1), (3, "dead", None),
    ]  # fmt: skip
    last = lines[-1]
    assert last.items() >= {
        "task": "counted.flaky", "task_id": dead.id, "root_id": dead.id, "max_attempts": 3, "category": "connection",
        "error": "ConnectionError", "queue": f"{counted.guarded.prefix}.tasks", "generation": 0, "level": "WARNING",
        "correlation": {"key": "order 1", "msg": "a field of the record itself"},
    }.items()  # fmt: skip
    assert last["started_at"] <= last["ended_at"]  # in whole milliseconds
    assert last["worker"].startswith("w")
    assert last["message"] == f"counted.flaky[{dead.id}] attempt 3 of 3: dead, ConnectionError"
    (line,) = counted.lines("counted.add")
    assert line.items() >= {
        "task_id": fine.id, "outcome": "succeeded", "attempt": 1, "error": None, "category": None, "correlation": {},
    }.items()  # fmt: skip
    assert line["started_at"] <= line["ended_at"]
    assert secret not in json.dumps(counted.lines())
    assert "the error of" not in json.dumps(counted.lines())
    assert worker.stop(60) == 0


def test_nothing_is_counted_while_guardrails_is_switched_off(
    redis_broker: Broker, make: Callable[..., Counted]
) -> None:
    counted = make(redis_broker, enabled=False)
    worker = counted.worker("-c", "1")
    counted.tasks.add.delay(1, 1)
    counted.tasks.expected.delay()
    counted.tasks.signals.delay("ignore")
    wait_until(lambda: "counted.signals" in worker.log(), 60, "the last task")
    counted.tasks.early.delay("done", 0)
    counted.guarded.wait_for_runs("done", 1)
    assert worker.stop(60) == 0
    assert counted.receive().is_empty
    assert counted.lines() == []


def test_a_worker_sends_its_figures_while_it_runs(redis_broker: Broker, make: Callable[..., Counted]) -> None:
    counted = make(redis_broker)
    worker = counted.worker("-c", "1")
    for number in range(3):
        counted.tasks.add.delay(number, 1)
    wait_until(lambda: counted.receive().tasks, 90, "figures of a running worker")
    assert worker.is_running
    worker.kill()


@pytest.mark.own_servers
def test_a_worker_whose_broker_is_away_counts_on(redis_broker: Broker, make: Callable[..., Counted]) -> None:
    """A warm shutdown without a broker does not wait for the figures; with it again, they are sent."""
    counted = make(redis_broker)
    worker = counted.worker("-c", "1")
    counted.tasks.add.delay(1, 1)
    counted.wait_for_lines(1)
    redis_broker.server.stop()
    assert worker.is_running
    redis_broker.server.start()
    counted.tasks.flaky.delay("after", 1)
    counted.wait_for_lines(3)
    assert worker.stop(90) == 0
    found = counted.receive()
    assert found.tasks["counted.add"].outcomes == {"succeeded": 1}
    assert found.tasks["counted.flaky"].outcomes == {"retried": 1, "succeeded": 1}
