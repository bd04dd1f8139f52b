"""What a worker publishes when a task fails: dead letters and waiting retries, beside a bare kombu producer.

The bare producer sends the same bytes with the same headers over a connection like ours, with publisher confirms
where the broker has them; it has nothing to encode, no route to check and does not reconnect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from celery import Celery
from kombu import Producer

from bench.figure import Pair, alternate
from bench.letter import letter
from celery_guardrails.transport.connection import opened
from celery_guardrails.transport.dead_letter import DeadLetterSender, declared_queue
from celery_guardrails.transport.publisher import Envelope, Publisher
from celery_guardrails.transport.waiting.build import waiting_for

__all__ = ["dead_letters", "waiting_retries"]


def dead_letters(url: str, broker: str, rounds: int = 11, count: int = 1000) -> Pair:
    """Dead letters a second, confirmed, and bare confirmed messages of the same size."""
    app = Celery("bench-letters", broker=url, set_as_current=False)
    publisher = Publisher(app)
    sender, one = DeadLetterSender(publisher, "bench.ours"), letter(1)
    envelope, _ = sender.addressed(one)
    with _bare(app, "bench.theirs", envelope) as publish:
        ours = _timed(lambda: sender.send(one), count)
        pair = Pair(f"dead-lettering on {broker}", *alternate(rounds, ours, _timed(publish, count)))
    publisher.close()
    return pair


def waiting_retries(url: str, rounds: int = 11, count: int = 1000) -> Pair:
    """Retries a second that wait outside the workers, and bare messages of the same size."""
    app = Celery("bench-waiting", broker=url, set_as_current=False)
    publisher = Publisher(app)
    waiting = waiting_for(app, publisher)
    headers = {"task": "bench.mail", "id": "task-1", "retries": 1, "eta": "2030-01-01T00:00:00+00:00"}
    envelope = Envelope(b"[[1],{},{}]" * 10, "bench.ours", content_type="application/json",
                        content_encoding="utf-8", headers=headers)  # fmt: skip
    with _bare(app, "bench.theirs", envelope) as publish:
        ours = _timed(lambda: waiting.publish(envelope, [], 3600.0), count)
        pair = Pair("waiting retries on Redis", *alternate(rounds, ours, _timed(publish, count)))
    publisher.close()
    return pair


@contextmanager
def _bare(app: Celery, queue: str, envelope: Envelope) -> Iterator[Callable[[], None]]:
    with opened(app, confirm=True) as connection:
        channel = connection.channel()
        declared_queue(queue)(channel).declare()
        producer = Producer(channel)

        def publish() -> None:
            producer.publish(
                envelope.body, exchange="", routing_key=queue, delivery_mode=2, headers=dict(envelope.headers),
                content_type=envelope.content_type, content_encoding=envelope.content_encoding,
            )  # fmt: skip

        yield publish


def _timed(act: Callable[[], None], count: int) -> Callable[[], float]:
    def rate() -> float:
        started = time.perf_counter()
        for _ in range(count):
            act()
        return count / (time.perf_counter() - started)

    rate()
    return rate
