"""Letters of what dead workers left in their journals, without a worker: what is in them, and when there is none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.transport.memory import Channel

from celery_guardrails import GuardedTask, Guardrails, Policy, clock
from celery_guardrails.errors import SpoolError
from celery_guardrails.letters.record import Letter
from celery_guardrails.transport.journal.entry import Taken
from celery_guardrails.transport.journal.journal import Journal
from celery_guardrails.worker.failure.lost import LostWork
from celery_guardrails.worker.main import journal
from celery_guardrails.worker.main.postpone import Postponing, postpone, resume
from tests.conftest import Broker
from tests.unit.traced import Gate, received

AT = datetime(2026, 1, 1, tzinfo=timezone.utc)
BODY = b'[["ada"], {"token": "hush"}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
PAYMENT = {"policy": Policy(acks="early", owner="payments", dead_letter_queue="own.dead", correlate=("customer",))}


def taken(task_id: str = "t1", task: str = "unit.pay", body: bytes = BODY, **headers: Any) -> Taken:
    published = {"v": 1, "published_at": AT.timestamp(), "work": "w1"}
    return Taken(
        body=body,
        headers={"id": task_id, "task": task, "root_id": "r1", "retries": 1, "guardrails": published, **headers},
        properties={"correlation_id": task_id, "delivery_tag": "tag-1"},
        delivery={"exchange": "", "routing_key": "unit.tasks", "priority": 3, "redelivered": False},
        content_type="application/json",
        content_encoding="utf-8",
        worker="w7@there",
        tag="tag-1",
        at=AT,
    )


def dead(folder: Path, *entries: Taken, acknowledged: bool = True) -> None:
    """Leave these in the journal of a process that is dead."""
    pid = os.fork()
    if not pid:
        try:
            kept = Journal(folder, 1 << 20, "unit")
            for entry in entries:
                slot = kept.keep(entry)
                if acknowledged:
                    slot.acknowledged()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Celery]]:
    made: list[Celery] = []

    def make(broker: str = "memory://", **settings: Any) -> Celery:
        app = Celery("unit", broker=broker, backend="cache+memory://", set_as_current=False)
        app.conf.task_default_queue = "unit.tasks"
        app.conf.guardrails = {"dead_letter": {"queue": "unit.dead", "spool_dir": str(tmp_path)}, **settings}

        @app.task(base=GuardedTask, name="unit.pay", shared=False, **PAYMENT)
        def pay(customer: str, token: str = "") -> None: ...

        app.finalize()
        Guardrails.of(app).prepare()
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()
    Channel.queues.clear()


@pytest.fixture
def app(make: Callable[..., Celery]) -> Celery:
    return make()


def sent(app: Celery) -> tuple[list[Letter], list[str]]:
    """Make letters of what was left; gives them and the queues that they went to."""
    gate = Gate(app)
    LostWork(Guardrails.of(app)).run_once(clock.now(), flush=True)
    return gate.letters, [envelope.routing_key for envelope in gate.sent]


def files(folder: Path) -> list[str]:
    return [path.name for path in (folder / "journal").rglob("*")]


def test_a_letter_is_as_the_worker_itself_would_have_made_it(app: Celery, tmp_path: Path) -> None:
    dead(tmp_path, taken())
    (letter,), queues = sent(app)
    assert queues == ["own.dead"]
    assert (letter.task_id, letter.task, letter.reason.value, letter.worker) == (
        "t1", "unit.pay", "worker_lost", "w7@there",
    )  # fmt: skip
    assert letter.explanation.startswith("the worker died while it ran the task")
    assert "may have run already" in letter.explanation
    assert letter.may_have_run
    assert (letter.attempts[-1].number, letter.attempts[-1].started_at) == (2, AT)
    assert (letter.queue, letter.routing_key, letter.priority) == ("unit.tasks", "unit.tasks", 3)
    assert (letter.message.body, letter.message.headers["id"]) == (BODY, "t1")
    assert letter.message.properties["correlation_id"] == "t1"
    assert (letter.owner, letter.root_id, letter.published_at) == ("payments", "r1", AT)
    assert letter.correlation == {"customer": "ada"}
    assert "hush" not in letter.preview.kwargs
    assert files(tmp_path) == []


def test_it_has_the_id_that_the_worker_would_have_given_it(
    app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A death that the worker reported, and that its journal has as well, is one letter."""
    from billiard.exceptions import WorkerLostError

    from tests.unit.worker.main.test_ending import info

    gate = Gate(app)
    request = received(app.tasks["unit.pay"], "ada")
    assert journal.keep(request)
    request.acknowledge()
    entry = journal._taken(request)
    request.on_failure(info(WorkerLostError("signal 9")), return_ok=False)
    (own,) = gate.letters
    Guardrails.of(app).journal.close()
    dead(tmp_path, entry)
    (found,), _ = sent(app)
    assert (found.id, found.reason) == (own.id, own.reason)


def test_the_main_process_looks_for_no_entry_of_its_own(
    app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows which entry is a request's; only the process that ran the task has to look for it."""
    from billiard.exceptions import WorkerLostError

    from tests.unit.worker.main.test_ending import info

    looked: list[str] = []
    monkeypatch.setattr(Journal, "mark_done", lambda self, task_id, is_it: looked.append(task_id))
    gate = Gate(app)
    request = received(app.tasks["unit.pay"], "ada")
    assert journal.keep(request)
    request.acknowledge()
    request.on_failure(info(WorkerLostError("signal 9")), return_ok=False)
    assert [letter.reason.value for letter in gate.letters] == ["worker_lost"]
    assert looked == []
    assert request.slot is None


def test_whether_it_was_acknowledged_may_not_be_known(app: Celery, tmp_path: Path) -> None:
    dead(tmp_path, taken(), acknowledged=False)
    (letter,), _ = sent(app)
    assert "the broker may deliver it again" in letter.explanation
    assert "may have run already" in letter.explanation


@pytest.mark.parametrize("entry", [taken(task="gone.task"), taken(body=b"\x80not json")])
def test_a_task_that_nobody_knows_and_a_body_that_nobody_reads_make_a_letter(
    app: Celery, tmp_path: Path, entry: Taken
) -> None:
    dead(tmp_path, entry)
    (letter,), _ = sent(app)
    assert letter.may_have_run
    assert (letter.task_id, letter.task, letter.message.body) == ("t1", entry.headers["task"], entry.body)


def test_what_the_result_backend_knows_to_have_succeeded_makes_none(app: Celery, tmp_path: Path) -> None:
    dead(tmp_path, taken("done"), taken("lost"))
    app.backend.store_result("done", "fine", "SUCCESS")
    letters, _ = sent(app)
    assert [letter.task_id for letter in letters] == ["lost"]
    assert files(tmp_path) == []


def test_what_nobody_takes_stays_and_is_said_once(
    make: Callable[..., Celery], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(dead_letter={"queue": "unit.dead", "spool_dir": str(tmp_path), "spool_limit": 1})
    dead(tmp_path, taken("a"), taken("b"))
    gate, service = Gate(app), LostWork(Guardrails.of(app))
    gate.closed.add("own.dead")
    for _ in range(3):
        assert service.run_once(clock.now(), flush=True) == 0
    assert caplog.text.count("stays there and is tried again") == 1
    gate.closed.clear()
    assert service.run_once(clock.now(), flush=True) == 2
    assert [letter.task_id for letter in gate.letters] == ["a", "b"]
    assert files(tmp_path) == []


def test_the_kill_switch_leaves_nothing_behind(make: Callable[..., Celery], tmp_path: Path) -> None:
    app = make(enabled=False)
    dead(tmp_path, taken())
    letters, _ = sent(app)
    assert len(letters) == 1


@pytest.mark.parametrize("is_there", [True, False])
def test_redis_says_whether_it_still_has_what_had_not_begun(
    redis_broker: Broker, make: Callable[..., Celery], tmp_path: Path, is_there: bool
) -> None:
    app = make(redis_broker.url)
    dead(tmp_path, taken(), acknowledged=False)
    if is_there:
        with redis.Redis.from_url(redis_broker.url) as client:
            client.hset("unacked", "tag-1", "[{}, '', 'unit.tasks']")
    letters, _ = sent(app)
    assert len(letters) == (0 if is_there else 1)
    assert files(tmp_path) == []


class Consumer:
    """What the step needs of a consumer; its timer is wound by the test."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.prefetch, self.timers = 0, []  # type: ignore[var-annotated]
        self.qos = SimpleNamespace(increment_eventually=self._more, decrement_eventually=self._less)
        self.timer = SimpleNamespace(call_after=lambda seconds, act, args: self.timers.append((seconds, act, args)))

    def call_soon(self, act: Callable[[], None]) -> None:
        act()

    def _more(self) -> None:
        self.prefetch += 1

    def _less(self) -> None:
        self.prefetch -= 1

    def wind(self) -> None:
        timers, self.timers = self.timers, []
        for _, act, args in timers:
            act(*args)


def test_what_must_not_begin_waits_and_goes_back_once(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock_ = SimpleNamespace(now=100.0)
    monkeypatch.setattr("celery_guardrails.worker.main.postpone.time.monotonic", lambda: clock_.now)
    consumer, guard = Consumer(app), Guardrails.of(app)
    Postponing(consumer)
    requests = [received(app.tasks["unit.pay"], "ada") for _ in range(3)]
    for request in requests[:2]:
        postpone(guard, request, SpoolError("/there", "no space"))
        request.acknowledge()  # as Celery does when the pool passes it over
    assert consumer.prefetch == 2
    assert consumer.timers[0][0] == 5.0
    clock_.now += 4
    consumer.wind()
    assert [request.rejected for request in requests[:2]] == [[], []]
    clock_.now += 1
    consumer.wind()
    assert [request.rejected for request in requests[:2]] == [[True], [True]]
    assert consumer.prefetch == 0
    assert consumer.timers == []
    clock_.now += 12
    postpone(guard, requests[2], SpoolError("/there", "no space"))
    assert consumer.timers[0][0] == 17.0  # as long as the trouble has lasted
    assert caplog.text.count("do not begin") == 1
    resume(guard)
    resume(guard)
    assert caplog.text.count("begin again") == 1


def test_the_prefetch_count_makes_room_for_a_hundred_and_no_more(app: Celery) -> None:
    consumer, guard = Consumer(app), Guardrails.of(app)
    step = Postponing(consumer)
    for _ in range(120):
        postpone(guard, received(app.tasks["unit.pay"], "ada"), SpoolError("/there", "no space"))
    assert consumer.prefetch == 100
    step.stop(consumer)


def test_without_a_consumer_it_goes_back_at_once(app: Celery) -> None:
    request = received(app.tasks["unit.pay"], "ada")
    postpone(Guardrails.of(app), request, SpoolError("/there", "no space"))
    assert request.rejected == [True]


def test_a_message_that_cannot_be_written_runs_all_the_same(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    request = received(app.tasks["unit.pay"], "ada")
    endless: dict[str, Any] = {}
    endless["self"] = endless
    request.message.headers["endless"] = endless
    assert journal.keep(request)
    assert not journal.is_kept(request)
    assert "runs without an entry in the journal" in caplog.text
