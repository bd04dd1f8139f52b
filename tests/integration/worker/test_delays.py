"""Tasks sent with a `countdown`, an `eta` or `expires`, and delayed retries: on time, outside the worker, whole."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from celery import chain, chord, group
from celery.signals import after_task_publish, before_task_publish
from kombu.exceptions import OperationalError

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.letters.codec import decode
from celery_guardrails.letters.record import Letter
from celery_guardrails.transport.consumer import DeadLetterConsumer
from celery_guardrails.transport.dead_letter import declared_queue
from tests.harness import Harness, Process
from tests.waiting import wait_until

APP = "tests.apps.delays"


class Delays:
    """The application of `tests/apps/delays.py` on one broker, as a producer sees it, and a worker for it."""

    def __init__(self, folder: Path, url: str, backend: str, kind: str = "", **settings: Any) -> None:
        self.prefix = f"d{uuid.uuid4().hex[:8]}"
        self.folder = folder / self.prefix
        self.folder.mkdir()
        self.quorum = kind == "quorum"
        environment = {
            "BROKER_URL": url, "RESULT_BACKEND": backend, "DELAYS_PREFIX": self.prefix, "DELAYS_KIND": kind,
            "DELAYS_RUNS": str(self.folder), "DELAYS_SETTINGS": json.dumps(settings),
        }  # fmt: skip
        self.harness = Harness(self.folder, environment)
        path = Path(__file__).parents[2] / "apps" / "delays.py"
        spec = importlib.util.spec_from_file_location(f"delays_{self.prefix}", path)
        assert spec is not None
        assert spec.loader is not None
        self.tasks: Any = importlib.util.module_from_spec(spec)
        with mock.patch.dict(os.environ, environment):
            spec.loader.exec_module(self.tasks)
        self.app = self.tasks.app
        self.mail, self.billing = f"{self.prefix}.mail", f"billing.{self.prefix}.mail"
        self.topic, self.audit = f"{self.prefix}.topic", f"{self.prefix}.audit"

    @property
    def outside(self) -> bool:
        """Whether this broker has a way to wait outside the workers."""
        return Guardrails.of(self.app).waiting.outside

    def worker(self, *options: str) -> Process:
        return self.harness.worker(APP, *options)

    def runs(self, key: str) -> list[dict[str, Any]]:
        path = self.folder / key
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, key: str, count: int, bound: float = 60.0) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.runs(key)) >= count, bound, lambda: f"{count} runs of {key}: {self.runs(key)}")
        return self.runs(key)

    def letters(self, count: int) -> list[Letter]:
        found: list[Letter] = []
        consumer = DeadLetterConsumer(self.app, [declared_queue(f"{self.prefix}.dead")])

        def receive() -> bool:
            batch = consumer.receive(50, 0.2)
            found.extend(decode(delivery.body) for delivery in batch)
            consumer.settle(batch)
            return len(found) >= count

        try:
            wait_until(receive, 40, lambda: f"{count} letters: {found}")
        finally:
            consumer.close()
        return found

    def count(self, queue: str) -> int:
        """How many messages wait in a queue of RabbitMQ; it is declared."""
        with self.app.connection_for_read() as connection, connection.channel() as channel:
            self.app.amqp.queues[queue](channel).declare()
            return int(channel.queue_declare(queue, passive=True).message_count)

    def close(self) -> None:
        self.harness.close()
        gc.collect()  # with an old redis-py a result that goes after the backend unsubscribes over a new connection
        if consumer := getattr(self.app.backend, "result_consumer", None):
            consumer.stop()
        Guardrails.of(self.app).publisher.close()
        self.app.pool.force_close_all()
        self.app.close()


@pytest.fixture(scope="module", params=["redis", "classic", "quorum"])
def delays(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delays]:
    """One application and worker for the whole file: on Redis, on RabbitMQ with classic and with quorum queues."""
    kind = request.param
    server: Any = request.getfixturevalue("shared_redis" if kind == "redis" else "shared_rabbitmq")
    backend: Any = request.getfixturevalue("shared_redis")
    for each in (server, backend):
        each.start()
    made = Delays(tmp_path_factory.mktemp("delays"), server.fresh_url(), backend.fresh_url(), kind.strip("redis"))
    made.worker()
    yield made
    made.close()


def test_a_countdown_and_an_eta_run_when_they_are_due(delays: Delays) -> None:
    now = datetime.now(timezone.utc)
    begun = time.time()
    sent: Mapping[str, tuple[float, Any]] = {
        "countdown": (2.0, delays.tasks.note.apply_async(("countdown",), countdown=2)),
        "eta": (3.0, delays.tasks.note.apply_async(("eta",), eta=now + timedelta(seconds=3))),
        "naive": (2.0, delays.tasks.note.apply_async(("naive",), eta=now.replace(tzinfo=None) + timedelta(seconds=2))),
        "billing": (1.0, delays.tasks.note.apply_async(("billing",), countdown=1, queue=delays.billing)),
        "brief": (0.4, delays.tasks.note.apply_async(("brief",), countdown=0.4)),
        "past": (0.0, delays.tasks.note.apply_async(("past",), countdown=-5)),
    }
    for key, (delay, result) in sent.items():
        assert result.get(timeout=40) == key
        assert len(delays.runs(key)) == 1, delays.runs(key)
        run = delays.runs(key)[0]
        assert run["at"] >= begun + delay - 0.002, key  # an eta is taken before `begun`, by that much
        queue = delays.billing if key == "billing" else delays.mail
        assert (run["exchange"], run["key"], run["retries"]) == ("", queue, 0)


def test_what_waits_is_not_in_the_workers_memory(delays: Delays) -> None:
    if not delays.outside:
        pytest.skip("this broker has no way to wait outside the workers")
    inspect = delays.app.control.inspect(timeout=30, limit=1)
    (before,) = (inspect.stats() or {}).values()
    for number in range(20):
        delays.tasks.note.apply_async((f"far-{number}",), countdown=600)
        delays.tasks.note.apply_async((f"near-{number}",), countdown=3)
    delays.tasks.note.delay("behind").get(timeout=20)
    (during,) = (inspect.stats() or {}).values()
    (scheduled,) = (inspect.scheduled() or {}).values()
    assert scheduled == []
    assert during["prefetch_count"] <= before["prefetch_count"]
    for number in range(20):
        delays.wait_for(f"near-{number}", 1)
    (scheduled,) = (inspect.scheduled() or {}).values()
    (after,) = (inspect.stats() or {}).values()
    assert scheduled == []
    assert after["prefetch_count"] <= before["prefetch_count"]
    assert delays.runs("far-0") == []


def test_retries_with_a_delay_keep_to_their_queue(delays: Delays) -> None:
    delays.tasks.failing.apply_async(("kept",), queue=delays.billing)
    letter = delays.letters(1)[0]
    runs = delays.runs("kept")
    assert [(run["retries"], run["exchange"], run["key"]) for run in runs] == [
        (n, "", delays.billing) for n in range(3)
    ]
    assert min(runs[1]["at"] - runs[0]["at"], runs[2]["at"] - runs[1]["at"]) >= 1
    assert (letter.queue, letter.exchange, letter.routing_key) == (delays.billing, "", delays.billing)


def test_an_exchange_of_two_queues_does_not_double_retries(delays: Delays) -> None:
    """Each of the two gets the task, and runs all its attempts; what is retried goes back to its own queue."""
    delays.tasks.failing.apply_async(("doubled",), countdown=1, queue=delays.topic, routing_key="mail.sent")
    letters = delays.letters(2)
    events = f"{delays.prefix}.events"
    assert sorted(letter.queue for letter in letters) == sorted([delays.topic, delays.audit])
    assert {(letter.exchange, letter.routing_key) for letter in letters} == {(events, "mail.sent")}
    assert [len(letter.attempts) for letter in letters] == [3, 3]
    delays.tasks.note.delay("after-doubled").get(timeout=20)
    runs = delays.runs("doubled")
    assert {(run["exchange"], run["key"]) for run in runs} == {(events, "mail.sent")}
    assert sorted(run["retries"] for run in runs) == [0, 0, 1, 1, 2, 2]


def test_a_retry_by_hand_with_other_arguments_waits_as_well(delays: Delays) -> None:
    result = delays.tasks.changing.apply_async(("by-hand",), queue=delays.billing)
    assert result.get(timeout=40) == 2
    runs = delays.runs("by-hand")
    assert [(run["step"], run["retries"], run["key"]) for run in runs] == [(n, n, delays.billing) for n in range(3)]
    assert runs[2]["at"] - runs[0]["at"] >= 2


def test_all_that_celery_does_for_a_delayed_task_it_still_does(delays: Delays) -> None:
    heard: list[tuple[str, Any]] = []

    def before(headers: Any = None, **_: Any) -> None:
        heard.append(("before", headers["id"]))

    def after(headers: Any = None, **_: Any) -> None:
        heard.append(("after", headers["id"]))

    before_task_publish.connect(before, weak=False)  # a dead one would cut Celery 5.5 off from those that follow
    after_task_publish.connect(after, weak=False)
    try:
        result = delays.tasks.note.apply_async(
            ("whole",), countdown=1, task_id=f"id-{delays.prefix}", serializer="json", compression="gzip",
            headers={"trace": "t-1"}, link=delays.tasks.note.si("linked", "more"), stamp="red",
            stamped_headers=["stamp"],
        )  # fmt: skip
    finally:
        before_task_publish.disconnect(before)
        after_task_publish.disconnect(after)
    assert heard == [("before", result.id), ("after", result.id)]
    assert result.id == f"id-{delays.prefix}"
    assert result.get(timeout=40) == "whole"
    (run,) = delays.runs("whole")
    assert run["headers"]["trace"] == "t-1"
    assert delays.wait_for("linked", 1)[0]["more"] == ["more"]


def test_chains_groups_and_chords_wait_too(delays: Delays) -> None:
    note = delays.tasks.note
    begun = time.time()
    chained = chain(note.si("chain-1").set(countdown=1), note.si("chain-2").set(countdown=1)).apply_async()
    grouped = group(note.si(f"group-{n}").set(countdown=1) for n in range(3)).apply_async()
    body = chord([note.si("member-1").set(countdown=1), note.si("member-2")])(note.si("body").set(countdown=1))
    assert chained.get(timeout=40) == "chain-2"
    assert grouped.get(timeout=40) == ["group-0", "group-1", "group-2"]
    assert body.get(timeout=40) == "body"
    assert delays.runs("chain-2")[0]["at"] - begun >= 2
    assert delays.runs("body")[0]["at"] - begun >= 2
    assert [len(delays.runs(key)) for key in ("chain-1", "chain-2", "group-0", "member-1", "body")] == [1] * 5


def test_a_priority_is_kept(delays: Delays) -> None:
    if delays.quorum:
        pytest.skip("quorum queues have no priorities on RabbitMQ 3")
    result = delays.tasks.note.apply_async(("ranked",), countdown=1, queue=f"{delays.prefix}.ranked", priority=7)
    result.get(timeout=40)
    assert delays.runs("ranked")[0]["priority"] == 7


def test_a_caller_may_bring_a_producer(delays: Delays) -> None:
    with delays.app.producer_or_acquire() as producer:
        delays.tasks.note.apply_async(("given-1",), countdown=1, producer=producer)
        delays.tasks.note.apply_async(("given-2",), expires=60, producer=producer)
        delays.tasks.note.apply_async(("given-3",), producer=producer)
    with delays.app.connection_for_write() as connection:
        delays.tasks.note.apply_async(("given-4",), countdown=1, expires=60, connection=connection)
    for number in range(1, 5):
        delays.wait_for(f"given-{number}", 1)


def test_expires_is_for_the_worker_to_see(request: pytest.FixtureRequest, shared_rabbitmq: Any, tmp_path: Path) -> None:
    """Celery makes it the message's lifetime, too, at whose end RabbitMQ drops it."""
    shared_rabbitmq.start()
    idle = Delays(tmp_path, shared_rabbitmq.fresh_url(), "cache+memory://")
    request.addfinalizer(idle.close)
    idle.tasks.note.apply_async(("kept",), expires=1, queue=idle.mail)
    idle.tasks.note.apply_async(("waits",), expires=1, countdown=2, queue=idle.mail)
    idle.tasks.plain.apply_async(("lost",), expires=1, queue=idle.billing)
    idle.tasks.dropped.apply_async(("dropped",), expires=1, queue=idle.billing)
    wait_until(lambda: (idle.count(idle.mail), idle.count(idle.billing)) == (2, 0), 30)
    idle.worker()
    idle.tasks.note.apply_async(("last",), queue=idle.mail)
    idle.wait_for("last", 1)
    assert idle.runs("kept") == idle.runs("waits") == []


def test_a_task_may_wait_before_any_worker_has_declared_its_queue(
    request: pytest.FixtureRequest, broker: Any, tmp_path: Path
) -> None:
    early = Delays(tmp_path, broker.url, "cache+memory://")
    request.addfinalizer(early.close)
    begun = time.time()
    early.tasks.note.apply_async(("early",), countdown=2)
    early.worker()
    (run,) = early.wait_for("early", 1)
    assert run["at"] - begun >= 2


@pytest.mark.parametrize("scheme", ["amqp://guest:guest@127.0.0.1:1//", "redis://127.0.0.1:1/0"])
def test_a_broker_that_is_away_is_an_error_for_the_caller(
    request: pytest.FixtureRequest, tmp_path: Path, scheme: str
) -> None:
    away = Delays(
        tmp_path, scheme, "cache+memory://", task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1}
    )
    request.addfinalizer(away.close)
    for options in ({"countdown": 5}, {"expires": 5}, {}):
        with pytest.raises(OperationalError):
            away.tasks.note.apply_async(("never",), **options)
    assert not list(away.folder.rglob("*.json")), "a client spools nothing"
