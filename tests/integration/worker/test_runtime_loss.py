"""Every way in which a task ends outside what its body says, on prefork, on both brokers.

One worker serves the cases of a broker: each of them would take it down, block it or lose the task under plain Celery.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import celery
import pytest
from kombu.serialization import dumps

from celery_guardrails.letters.codec import decode
from celery_guardrails.letters.record import Letter
from celery_guardrails.transport.consumer import DeadLetterConsumer
from celery_guardrails.transport.dead_letter import declared_queue
from tests.guarded import Guarded
from tests.harness import Harness, Process
from tests.integration.worker.left import left
from tests.waiting import wait_until

PADDING = "ä" * 40
# Celery stores nothing for a rejected message before 5.7
REJECTED = "FAILURE" if celery.VERSION >= (5, 7) else "PENDING"


class Losing(Guarded):
    """The losing application and one worker for it; every case of `ENDS` is sent at once, so that they end together."""

    process: Process

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, {}, "losing")
        self.ids: dict[str, str] = {}
        self._consumer = DeadLetterConsumer(self.app, [declared_queue(f"{self.prefix}.dead")])

    def send(self, task: str, how: str) -> None:
        """Send a task that will end in this way."""
        key = f"{task}-{how}"
        # not the result itself: it would outlive its application
        self.ids[key] = getattr(self.tasks, task).delay(key, how, PADDING).id

    def letters_of(self, task_id: str) -> list[Letter]:
        """The letters of a task that have come so far."""
        self._receive()
        return [letter for letter in self._letters if letter.task_id == task_id]

    def letter_of(self, task_id: str, bound: float = 90.0) -> Letter:
        """Wait for the letter of a task, and fail if it has several."""
        wait_until(lambda: self.letters_of(task_id), bound, lambda: f"a letter of {task_id}")
        (letter,) = self.letters_of(task_id)
        return letter

    def state(self, task_id: str) -> str:
        """The state in the result backend."""
        return str(self.app.AsyncResult(task_id).state)

    def _receive(self, wait: float = 0.1) -> int:
        while batch := self._consumer.receive(50, wait):
            self._letters += [decode(delivery.body) for delivery in batch]
            self._consumer.settle(batch)
        return len(self._letters)

    def close(self) -> None:
        """Give back what is open."""
        self._consumer.close()
        self.harness.close()
        self.app.close()


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def losing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Losing]:
    """The application and a worker on each broker, shared by the tests of this file."""
    server = request.getfixturevalue(f"shared_{request.param}")
    results = request.getfixturevalue("shared_redis")
    server.start()
    results.start()
    harness = Harness(tmp_path_factory.mktemp(f"losing-{request.param}"))
    made = Losing(harness, server.fresh_url(), results.fresh_url())
    for task, how, *_ in ENDS:
        made.send(task, how)
    made.process = harness.worker("tests.apps.losing", concurrency=4)
    yield made
    made.close()


def whole(letter: Letter, key: str, how: str) -> None:
    """Fail unless the letter keeps the message as it was sent, byte for byte."""
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    _, _, sent = dumps(((key, how, PADDING), {}, embed), serializer="json")
    assert letter.message.body == sent.encode()
    assert letter.message.headers["id"] == letter.task_id
    assert letter.message.content_type == "application/json"


ENDS = [
    # task, end, reason, error, runs, state
    ("late", "exit", "permanent_error", "SystemExit", 1, "FAILURE"),
    ("late", "strange", "permanent_error", "Strange", 1, "FAILURE"),
    ("late", "generator", "permanent_error", "GeneratorExit", 1, "FAILURE"),
    ("late", "interrupt", "permanent_error", "KeyboardInterrupt", 1, "FAILURE"),
    ("late", "memory", "permanent_error", "MemoryError", 1, "FAILURE"),
    ("late", "bug", "permanent_error", "KeyError", 1, "FAILURE"),
    ("late", "unpicklable", "permanent_error", "Local", 1, "FAILURE"),
    ("late", "reject", "rejected", "Reject", 1, REJECTED),
    ("late", "unserialisable", "result_unstorable", "EncodeError", 1, "FAILURE"),
    ("early", "exit", "permanent_error", "SystemExit", 1, "FAILURE"),
    ("early", "memory", "permanent_error", "MemoryError", 1, "FAILURE"),
    ("early", "reject", "rejected", "Reject", 1, REJECTED),
    ("early", "kill_child", "worker_lost", "WorkerLostError", 1, "FAILURE"),
    ("late", "kill_child", "worker_lost", "WorkerLostError", 3, "FAILURE"),
    ("late", "os_exit", "worker_lost", "WorkerLostError", 3, "FAILURE"),
    ("late", "term_child", "worker_lost", "WorkerLostError", 3, "FAILURE"),
    ("stubborn", "kill_child", "worker_lost", "WorkerLostError", 3, "FAILURE"),
    ("fragile", "kill_child", "worker_lost", "WorkerLostError", 1, "FAILURE"),
    ("parked", "kill_child", "worker_lost", "WorkerLostError", 1, "DEAD_LETTERED"),
    ("limited", "hang", "time_limit", "TimeLimitExceeded", 1, "FAILURE"),
    ("limited_twice", "hang", "attempts_exhausted", "TimeLimitExceeded", 2, "FAILURE"),
    ("looping", "hang", "time_limit", "TimeLimitExceeded", 1, "FAILURE"),
    ("parked", "hang", "time_limit", "TimeLimitExceeded", 1, "DEAD_LETTERED"),
    ("twice", "exit", "attempts_exhausted", "SystemExit", 2, "FAILURE"),
    ("twice", "memory", "attempts_exhausted", "MemoryError", 2, "FAILURE"),
    ("raising", "bug", "permanent_error", "KeyError", 1, "FAILURE"),
    ("raising_limited", "hang", "time_limit", "TimeLimitExceeded", 1, "FAILURE"),
    ("again", "kill_child", "worker_lost", "WorkerLostError", 3, "FAILURE"),
]


@pytest.mark.parametrize(("task", "how", "reason", "error", "runs", "state"), ENDS)
def test_an_end_is_dead_lettered_once(losing, task, how, reason, error, runs, state):
    key = f"{task}-{how}"
    task_id = losing.ids[key]
    letter = losing.letter_of(task_id)
    assert letter.reason.value == reason, letter
    assert letter.failure.type.rpartition(".")[2] == error
    assert letter.may_have_run is (task == "early" or reason in {"worker_lost", "result_unstorable"})
    assert letter.crashes == (runs if reason == "worker_lost" else 0)
    whole(letter, key, how)
    assert len(letter.attempts) == runs
    assert len(losing.runs(key)) == runs
    wait_until(lambda: losing.state(task_id) == state, 20, lambda: losing.state(task_id))


@pytest.mark.parametrize(
    ("how", "kind", "args"),
    [("exit", SystemExit, (3,)), ("memory", MemoryError, None), ("generator", GeneratorExit, None),
     ("interrupt", KeyboardInterrupt, None), ("bug", KeyError, None)],
)  # fmt: skip
def test_a_result_has_the_type_that_the_body_raised(losing, how, kind, args):
    result = losing.app.AsyncResult(losing.ids[f"late-{how}"])
    wait_until(lambda: result.state == "FAILURE", 90, "its failure")
    found = result.result
    assert type(found) is kind
    assert args is None or found.args == args
    assert "TaskAborted" not in (result.traceback or "")
    assert "TaskAborted" not in losing.process.log()


def test_the_log_says_the_error_once_with_its_message(losing):
    losing.letter_of(losing.ids["late-bug"])
    (line,) = [
        line for line in losing.process.log().splitlines() if losing.ids["late-bug"] in line and "dead-l" in line
    ]
    assert line.count("KeyError") == 1, line


def test_the_worker_goes_on_and_no_end_is_told_twice(losing):
    losing.finish()
    losing._receive(0.5)
    assert losing.process.is_running
    assert len(losing._letters) == len(ENDS)
    assert losing.runs("raising-bug.on_failure") != []
    assert len(losing.runs("raising_limited-hang.on_failure")) == (1 if celery.VERSION >= (5, 7) else 0)
    losing.process.stop()
    assert left(losing) == 0
