"""Compressed, pickled, prioritised and routed messages: retried, dead-lettered and put back as they were."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from celery import Celery
from kombu import Exchange, Queue

from celery_guardrails.letters.codec import decode
from celery_guardrails.letters.record import Letter
from celery_guardrails.letters.replay import replay
from celery_guardrails.transport.consumer import DeadLetterConsumer, waiting
from celery_guardrails.transport.dead_letter import Replayer, declared_queue
from celery_guardrails.transport.publisher import Publisher
from tests.conftest import Broker
from tests.harness import Harness
from tests.waiting import wait_until


class Courier:
    """The application on one broker, its worker, and what became of its work."""

    def __init__(self, harness: Harness, broker: Broker, **settings: Any) -> None:
        self.harness, self.broker = harness, broker
        self.folder = harness.folder / "runs"
        self.folder.mkdir()
        self.prefix = f"c{uuid.uuid4().hex[:8]}"
        harness.environment.update(
            BROKER_URL=broker.url,
            COURIER_PREFIX=self.prefix,
            COURIER_RUNS=str(self.folder),
            COURIER_SETTINGS=json.dumps(settings),
            C_FORCE_ROOT="1",  # Celery refuses pickle to root
        )
        path = Path(__file__).parents[2] / "apps" / "courier.py"
        spec = importlib.util.spec_from_file_location(f"courier_{self.prefix}", path)
        assert spec is not None
        assert spec.loader is not None
        self.tasks = importlib.util.module_from_spec(spec)
        with mock.patch.dict(os.environ, harness.environment):
            spec.loader.exec_module(self.tasks)
        self.app: Celery = self.tasks.app
        harness.worker("tests.apps.courier")

    def runs(self, key: str) -> list[dict[str, Any]]:
        path = self.folder / key
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def letter(self) -> Letter:
        consumer = DeadLetterConsumer(self.app, [declared_queue(f"{self.prefix}.dead")])
        found: list[Any] = []
        try:
            wait_until(lambda: found.extend(consumer.receive(1, 0.2)) or found, 30, "a dead letter")
            consumer.settle(found)
        finally:
            consumer.close()
        return decode(found[0].body)

    def put_back(self, letter: Letter, app: Celery | None = None) -> None:
        """Requeue it, once what it depends on is repaired."""
        (self.folder / "repaired").touch()
        publisher = Publisher(app or self.app)
        try:
            Replayer(app or self.app, publisher).publish(
                replay(letter, 1, letter.id, "t0ken", datetime.now(timezone.utc))
            )
        finally:
            publisher.close()

    def wait_for(self, key: str, count: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.runs(key)) >= count, 30, lambda: f"{count} runs of {key}: {self.runs(key)}")
        return self.runs(key)

    def recovered(self) -> None:
        queue = f"{self.prefix}.dead.recovered"
        wait_until(lambda: waiting(self.app, [queue]) == 1, 30, "the report that it has recovered")


@pytest.mark.parametrize("how", ["gzip", "pickle", "both"])
def test_the_body_stays_usable_on_the_whole_way(harness: Harness, broker: Broker, how: str) -> None:
    settings = {
        **({"task_compression": "gzip"} if how != "pickle" else {}),
        **({"task_serializer": "pickle"} if how != "gzip" else {}),
    }
    courier = Courier(harness, broker, **settings)
    what: Any = {"one"} if how != "gzip" else ["x" * 5000]
    courier.tasks.deliver.delay("body", what)
    letter = courier.letter()
    assert [run["what"] for run in courier.runs("body")] == [repr(what)] * 2
    if how != "gzip":
        assert pickle.loads(letter.message.body)[0] == ("body", what)
    courier.put_back(letter)
    assert courier.wait_for("body", 3)[2]["what"] == repr(what)
    courier.recovered()


def test_the_priority_is_kept(harness: Harness, broker: Broker) -> None:
    courier = Courier(harness, broker)
    courier.tasks.deliver.apply_async(("prior",), queue=f"{courier.prefix}.mail", routing_key="mail.send", priority=7)
    letter = courier.letter()
    assert letter.priority == 7
    courier.put_back(letter)
    assert [run["priority"] for run in courier.wait_for("prior", 3)] == [7, 7, 7]


def test_a_topic_exchange_brings_it_to_the_right_queue(harness: Harness, broker: Broker) -> None:
    courier = Courier(harness, broker)
    courier.tasks.deliver.apply_async(("topic",), queue=f"{courier.prefix}.mail", routing_key="mail.send.now")
    letter = courier.letter()
    assert (letter.queue, letter.exchange, letter.routing_key) == (
        f"{courier.prefix}.mail", f"{courier.prefix}.events", "mail.send.now",
    )  # fmt: skip
    courier.put_back(letter)
    assert [run["key"] for run in courier.wait_for("topic", 3)] == ["mail.send.now"] * 3
    courier.recovered()
    assert len(courier.runs("topic")) == 3


@pytest.mark.parametrize("knows", ["nothing", "the queues"])
def test_an_application_that_does_not_know_the_task_puts_it_back(harness: Harness, broker: Broker, knows: str) -> None:
    courier = Courier(harness, broker)
    courier.tasks.deliver.apply_async(("stranger",), queue=f"{courier.prefix}.orders", routing_key="order.7")
    letter = courier.letter()
    stranger = Celery("stranger", broker=broker.url, set_as_current=False)
    if knows == "the queues":
        events = Exchange(f"{courier.prefix}.events", "topic")
        stranger.conf.task_queues = [Queue(f"{courier.prefix}.orders", events, routing_key="order.*")]
    courier.put_back(letter, stranger)
    courier.wait_for("stranger", 3)
    courier.recovered()


def test_a_task_of_another_producer_is_found_by_protocol_1(harness: Harness, broker: Broker) -> None:
    courier = Courier(harness, broker)
    body = {"task": "courier.deliver", "id": "p1", "args": ["old"], "kwargs": {}, "retries": 0, "eta": None}
    with courier.app.producer_or_acquire() as producer:
        producer.publish(body, exchange="", routing_key=f"{courier.prefix}.default", serializer="json")
    letter = courier.letter()
    assert (letter.task_id, len(letter.attempts)) == ("p1", 2)
    courier.put_back(letter)
    courier.wait_for("old", 3)
    courier.recovered()
