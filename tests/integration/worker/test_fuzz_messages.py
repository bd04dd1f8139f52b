"""Fuzzing: whatever lies in a queue, worker and guardian survive it, and no message disappears.

Each message carries a number. In the end every number was processed, or is in one dead letter, or lies in the queue.
`GUARDRAILS_FUZZ=long` sends 20,000 messages and more, `GUARDRAILS_FUZZ_SEED` other ones (a number; it is printed).
"""

from __future__ import annotations

import base64
import bz2
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Queue
from sqlalchemy import create_engine, text

from celery_guardrails.letters.codec import decode
from celery_guardrails.letters.record import Letter
from celery_guardrails.transport.consumer import DeadLetterConsumer
from celery_guardrails.transport.dead_letter import declared_queue
from tests import fuzz
from tests.conftest import Broker
from tests.harness import Harness, Process
from tests.published import Published, publish, task_message
from tests.waiting import wait_until

LONG = os.environ.get("GUARDRAILS_FUZZ") == "long"
SEED = int(os.environ.get("GUARDRAILS_FUZZ_SEED", "1"))
pytestmark = pytest.mark.timeout(1800 if LONG else 300)
BATCH = 500
BOUND = 120.0
MESSAGES, ENVELOPES, LETTERS = (7_500, 3_000, 2_500) if LONG else (300, 200, 200)


class Fuzzed:
    """The fuzzed application on one broker, and the books: what was sent and what became of it."""

    def __init__(self, harness: Harness, broker: Broker, backend: str) -> None:
        self.harness, self.broker = harness, broker
        self.prefix = f"f{uuid.uuid4().hex[:8]}"
        self.queue, self.dead = f"{self.prefix}.tasks", f"{self.prefix}.dead"
        self.store = f"sqlite:///{harness.folder / 'archive.sqlite3'}"
        harness.environment.update(
            BROKER_URL=broker.url, RESULT_BACKEND=backend, FUZZ_PREFIX=self.prefix, FUZZ_RUNS=str(harness.folder),
            FUZZ_STORE=self.store,
        )  # fmt: skip
        self.app = Celery("sender", broker=broker.url, set_as_current=False)
        self.app.conf.update(task_queues=[Queue(self.queue, routing_key=self.queue)], task_default_queue=self.queue)
        self.letters: list[Letter] = []
        self.forgotten: set[int] = set()

    def worker(self) -> Process:
        return self.harness.worker("tests.apps.fuzzed", "-Q", self.queue)

    def processed(self) -> list[str]:
        path = self.harness.folder / "processed"
        return path.read_text().split() if path.exists() else []

    def receive(self) -> list[Letter]:
        consumer = DeadLetterConsumer(self.app, [declared_queue(self.dead)])
        try:
            while batch := consumer.receive(200, 0.3):
                self.letters += [decode(delivery.body) for delivery in batch]
                consumer.settle(batch)
        finally:
            consumer.close()
        return self.letters

    def left(self) -> list[Any]:
        """The numbers of what lies in the task queue, once no worker runs."""
        consumer = DeadLetterConsumer(self.app, [Queue(self.queue, routing_key=self.queue)], prefetch=1000)
        found: list[Any] = []
        try:
            while batch := consumer.receive(1000, 1.0):
                found += [delivery.headers.get("fuzz") for delivery in batch]
        finally:
            consumer.close()
        return found

    def close(self) -> None:
        self.app.close()


@pytest.fixture
def fuzzed(harness: Harness, broker: Broker, result_backend: str) -> Iterator[Fuzzed]:
    made = Fuzzed(harness, broker, result_backend)
    yield made
    made.close()


@pytest.fixture
def fuzzed_redis(harness: Harness, redis_broker: Broker, result_backend: str) -> Iterator[Fuzzed]:
    made = Fuzzed(harness, redis_broker, result_backend)
    yield made
    made.close()


def test_no_message_disappears(fuzzed: Fuzzed) -> None:
    print(f"GUARDRAILS_FUZZ_SEED={SEED}")  # noqa: T201 shown with a failure: with it the same messages come again
    worker = fuzzed.worker()
    drawn = fuzz.draw("messages", MESSAGES, SEED)
    if fuzzed.broker.name == "rabbitmq":
        drawn = [fuzz.for_amqp(message) for message in drawn]
    numbered = {number: _numbered(message, number) for number, message in enumerate(drawn, 1)}
    fuzzed.forgotten = {number for number, message in numbered.items() if _may_expire(message)}
    assert len(fuzzed.forgotten) < MESSAGES / 50
    for start in range(1, MESSAGES + 1, BATCH):
        batch = range(start, min(start + BATCH, MESSAGES + 1))
        publish(fuzzed.app, fuzzed.queue, [numbered[number] for number in batch])
        wait_until(
            lambda batch=batch: not _missing(fuzzed, batch), BOUND, lambda batch=batch: _told(fuzzed, numbered, batch)
        )
        assert worker.is_running
    # a broken list of errbacks is still one that Celery publishes: its letters are of messages that we did not send
    assert all(_has_parent(letter) for letter in fuzzed.letters if _number(letter) is None)
    letters = Counter(number for letter in fuzzed.letters if (number := _number(letter)) is not None)
    assert [number for number, count in letters.items() if count > 1] == []
    assert set(letters) <= set(numbered)
    for letter in fuzzed.letters:
        if letter.reason.value in ("undecodable", "unknown_task") and "fuzz" in letter.message.headers:
            _assert_whole(letter, numbered[letter.message.headers["fuzz"]])
    publish(fuzzed.app, fuzzed.queue, [_numbered(task_message("fuzz.plain"), MESSAGES + 1)])
    wait_until(lambda: str(MESSAGES + 1) in fuzzed.processed(), 30.0, "a task after all this")
    assert "Trying to re-establish the connection" not in worker.log()
    worker.stop(60)
    assert fuzzed.left() == []


def _numbered(message: Published, number: int) -> Published:
    """With its number, and an id of its own where it has one: two messages with one id are the same task."""
    headers = {**message.headers, "fuzz": number}
    if isinstance(headers.get("id"), str):
        headers["id"] = f"{headers['id']}{number}"
    data = _data(message.body)
    if isinstance(data, dict) and isinstance(data.get("id"), str):
        message = replace(message, body=json.dumps({**data, "id": f"{data['id']}{number}"}).encode())
    return replace(message, headers=headers)


def _data(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _may_expire(message: Published) -> bool:
    """Whether its publisher said that it may be forgotten: Celery does so silently with tasks that are not guarded."""
    data = _data(message.body)
    fields = {**(data if isinstance(data, dict) else {}), **message.headers}
    return fields.get("task") == "fuzz.plain" and isinstance(fields.get("expires"), str)


def _number(letter: Letter) -> Any:
    """The number of a letter's message, also where its worker could not even read the envelope."""
    found = re.search(rb'"fuzz": (\d+)', letter.message.body)
    return letter.message.headers.get("fuzz") or (int(found[1]) if found else None)


def _has_parent(letter: Letter) -> bool:
    return bool(letter.parent_id) or b'"parent_id": "' in letter.message.body


def _missing(fuzzed: Fuzzed, numbers: range) -> list[int]:
    dead = {_number(letter) for letter in fuzzed.receive()}
    done = {*fuzzed.processed(), *map(str, fuzzed.forgotten)}
    return [number for number in numbers if number not in dead and str(number) not in done]


def _told(fuzzed: Fuzzed, numbered: dict[int, Published], numbers: range) -> str:
    missing = _missing(fuzzed, numbers)
    return f"{len(missing)} are missing, seed {SEED}: " + "\n".join(
        repr(numbered[number])[:600] for number in missing[:5]
    )


def _assert_whole(letter: Letter, sent: Published) -> None:
    if not letter.message.compressed and sent.headers.get("compression"):
        return  # kombu hands out the decompressed body
    try:
        exact = sent.body.decode(sent.content_encoding or "utf-8").encode(sent.content_encoding or "utf-8") == sent.body
    except (LookupError, ValueError):
        exact = True
    if exact:
        assert letter.message.body == sent.body, sent
    expected = {key for key in sent.headers if key != "redelivered"}
    assert expected <= set(letter.message.headers), sent


def test_no_item_of_a_redis_list_disappears(fuzzed_redis: Fuzzed) -> None:
    print(f"GUARDRAILS_FUZZ_SEED={SEED}")  # noqa: T201 shown with a failure: with it the same messages come again
    worker = fuzzed_redis.worker()
    client = redis.Redis.from_url(fuzzed_redis.broker.url)
    items = fuzz.draw("envelopes", ENVELOPES, SEED)
    try:
        for end in range(0, ENVELOPES, BATCH):
            batch = items[end : end + BATCH]
            client.lpush(fuzzed_redis.queue, *batch)
            wanted = min(end + BATCH, ENVELOPES)
            wait_until(
                lambda wanted=wanted: _accounted(fuzzed_redis) >= wanted, BOUND, lambda: f"{_accounted(fuzzed_redis)}"
            )
            assert worker.is_running
        assert _accounted(fuzzed_redis) == ENVELOPES
        assert client.llen(fuzzed_redis.queue) == 0
    finally:
        client.close()
    publish(fuzzed_redis.app, fuzzed_redis.queue, [_numbered(task_message("fuzz.plain"), 1)])
    wait_until(lambda: "1" in fuzzed_redis.processed(), 30.0, "a task after all this")
    assert "Trying to re-establish the connection" not in worker.log()


def _wait_for_total(fuzzed: Fuzzed, wanted: int) -> None:
    wait_until(lambda: _accounted(fuzzed) >= wanted, BOUND, lambda: f"{_accounted(fuzzed)} of {wanted}, seed {SEED}")


def _accounted(fuzzed: Fuzzed) -> int:
    letters = fuzzed.receive()
    # an item that is no message may be handed on twice, and is one letter then; the messages here share an id
    raw = [letter.id for letter in letters if "guardrails_raw_from" in letter.message.properties]
    return len(letters) - len(raw) + len(set(raw)) + len(fuzzed.processed())


def test_no_dead_letter_disappears(fuzzed: Fuzzed, tmp_path: Path) -> None:
    print(f"GUARDRAILS_FUZZ_SEED={SEED}")  # noqa: T201 shown with a failure: with it the same messages come again
    guardian = fuzzed.harness.guardian("tests.apps.fuzzed")
    bodies = _distinct(fuzz.draw("dead_letters", LETTERS, SEED))
    queue = Queue(fuzzed.dead, routing_key=fuzzed.dead)
    fuzzed.app.amqp.queues.add(queue)
    publish(fuzzed.app, fuzzed.dead, [Published(body, {"n": number}) for number, body in enumerate(bodies)])
    bomb = bz2.compress(b"\0" * 10_000_000) * 20
    publish(fuzzed.app, fuzzed.dead, [Published(bomb, {"compression": "bzip2"})])
    newer = sum(_is_newer(body) for body in bodies)
    assert newer > 0
    wanted = len(bodies) - newer + 1
    wait_until(lambda: _archived(fuzzed) >= wanted, BOUND, lambda: f"{_archived(fuzzed)} of {wanted}")
    assert guardian.is_running
    assert _archived(fuzzed) == wanted
    assert _holds(fuzzed, base64.b64encode(bomb)), "as it came"
    guardian.stop()
    assert "schema version" in guardian.log()
    fuzzed.queue = fuzzed.dead
    assert len(fuzzed.left()) == newer


def _distinct(bodies: list[bytes]) -> list[bytes]:
    """Each with an id of its own where it is a letter: the same letter twice is one letter."""
    made: dict[bytes, None] = {}
    for number, body in enumerate(bodies):
        data = _data(body)
        if isinstance(data, dict):
            if isinstance(data.get("id"), str):
                data["id"] = f"{data['id'][:40]}-{number}"
            data["number"] = number
            made[json.dumps(data).encode()] = None
        else:
            made[body + b" %d" % number] = None
    return list(made)


def _is_newer(body: bytes) -> bool:
    data = _data(body)
    version = data.get("v") if isinstance(data, dict) else None
    return isinstance(version, int) and not isinstance(version, bool) and version > 1


def _holds(fuzzed: Fuzzed, part: bytes) -> bool:
    engine = create_engine(fuzzed.store)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT payload FROM guardrails_death WHERE reason = 'undecodable'"))
        found = any(part[:1000] in row[0] for row in rows)
    engine.dispose()
    return found


def _archived(fuzzed: Fuzzed) -> int:
    if not (fuzzed.harness.folder / "archive.sqlite3").exists():
        return 0
    engine = create_engine(fuzzed.store)
    try:
        with engine.connect() as connection:
            try:
                return int(connection.execute(text("SELECT count(*) FROM guardrails_death")).scalar_one())
            except Exception:  # noqa: BLE001 not made yet, or locked at this moment
                return 0
    finally:
        engine.dispose()
