"""How fast a guardian archives: letters a second, beside a bare kombu consumer that only acknowledges."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from celery import Celery
from kombu import Connection, Consumer, Message

from bench.figure import Pair, alternate
from bench.letter import letter
from celery_guardrails.guardian.guardian import Guardian
from celery_guardrails.guardian.ingest import Ingest
from celery_guardrails.letters.codec import encode
from celery_guardrails.store.engine import open_store
from celery_guardrails.transport.consumer import DeadLetterConsumer
from celery_guardrails.transport.dead_letter import declared_queue
from celery_guardrails.transport.publisher import Envelope, Publisher

__all__ = ["measure"]

QUEUE = "bench.dead"


def measure(url: str, rounds: int = 5, count: int = 3000) -> Pair:
    """Letters a second: archived in SQLite by a guardian, and merely acknowledged by kombu."""
    app = Celery("bench-ingest", broker=url)
    publisher = Publisher(app)
    numbers = iter(range(10**9))

    def fill() -> None:
        for _ in range(count):
            envelope = Envelope(encode(letter(next(numbers))), QUEUE, content_type="application/json")
            publisher.publish(envelope, [declared_queue(QUEUE)])

    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{Path(folder) / 'archive.sqlite3'}").ready()

        def guardian() -> float:
            fill()
            consumer = DeadLetterConsumer(app, [declared_queue(QUEUE)])
            ingest = Ingest(store, [], "bench")
            taken = [0, time.perf_counter(), 0.0]

            def progress(number: int) -> None:
                taken[0] += number
                taken[2] = time.perf_counter()

            Guardian(consumer, ingest).run_once(progress)
            return taken[0] / (taken[2] - taken[1])

        def bare() -> float:
            fill()
            return _acknowledge(url, count)

        ours, theirs = alternate(rounds, guardian, bare)
        store.close()
    publisher.close()
    return Pair("guardian ingest", ours, theirs)


def _acknowledge(url: str, count: int) -> float:
    seen = 0

    def take(message: Message) -> None:
        nonlocal seen
        seen += 1
        message.ack()

    with Connection(url) as connection, connection.channel() as channel:
        consumer = Consumer(channel, [declared_queue(QUEUE)], on_message=take)
        consumer.qos(prefetch_count=200)
        started = time.perf_counter()
        with consumer:
            while seen < count:
                connection.drain_events(timeout=10)
        return count / (time.perf_counter() - started)
