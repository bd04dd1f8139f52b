"""One broker, one archive, and what the tests of the guardian need of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from celery import Celery
from sqlalchemy import event

from celery_guardrails.guardian.guardian import Guardian
from celery_guardrails.guardian.ingest import Ingest
from celery_guardrails.letters.record import Letter, LetterFailure, OriginalMessage, letter_id
from celery_guardrails.letters.work import Work
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.recovery import search
from celery_guardrails.recovery.query import parse_query
from celery_guardrails.store.engine import Store, open_store
from celery_guardrails.transport.consumer import DeadLetterConsumer, waiting
from celery_guardrails.transport.dead_letter import DeadLetterSender, declared_queue, recovered_queue
from celery_guardrails.transport.publisher import Envelope, Publisher
from tests.archive import migrated_file

QUEUE = "test.dead"
NOW = datetime.now(timezone.utc)


def letter(number: int, generation: int = 0, origin: str | None = None, token: str | None = None) -> Letter:
    task_id = f"task-{number}"
    return Letter(
        id=letter_id(Work(task_id, "", "", ""), 1, generation, Reason.PERMANENT_ERROR),
        dead_letter_id=origin,
        claim_token=token,
        generation=generation,
        task="shop.mail",
        task_id=task_id,
        reason=Reason.PERMANENT_ERROR,
        failure=LetterFailure(type="KeyError", message="'x'", category=Category.BUG, fingerprint="v1:1"),
        queue="mail",
        first_failed_at=NOW,
        died_at=NOW + timedelta(seconds=number),
        message=OriginalMessage.model_construct(
            body=b"\x00\xff", content_type="application/x-odd", content_encoding="binary", headers={}, properties={}
        ),
    )


class Bench:
    """One broker, one archive, and what a guardian needs of them; `arguments` are those of its queues."""

    def __init__(self, url: str, folder: Path, arguments: Mapping[str, Any] | None = None) -> None:
        self.app = Celery("guardian-test", broker=url)
        self.publisher = Publisher(self.app)
        self.arguments = arguments
        self.sender = DeadLetterSender(self.publisher, QUEUE, arguments)
        self.path = folder / "archive.sqlite3"
        self.store: Store = open_store(migrated_file(self.path))

    def consumer(self) -> DeadLetterConsumer:
        names = (QUEUE, recovered_queue(QUEUE))
        return DeadLetterConsumer(self.app, [declared_queue(name, self.arguments) for name in names])

    def ingest(self) -> Ingest:
        return Ingest(self.store, [recovered_queue(QUEUE)], "test")

    def guardian(self, *services: Any) -> Guardian:
        return Guardian(self.consumer(), self.ingest(), services)

    @contextmanager
    def running(self, guardian: Guardian) -> Iterator[threading.Thread]:
        """A guardian at work in a thread of its own."""
        stop = threading.Event()
        thread = threading.Thread(target=guardian.run, args=(stop,), daemon=True)
        thread.start()
        try:
            yield thread
        finally:
            stop.set()
            thread.join(30)

    def raw(self, body: bytes, queue: str = QUEUE, **envelope: Any) -> None:
        """Publish to a queue what no worker would."""
        made = Envelope(body, queue, **{"content_type": "application/json", **envelope})
        self.publisher.publish(made, [declared_queue(queue, self.arguments)])

    def impatient(self) -> None:
        """Let the archive refuse at once when somebody else writes to it, not after five seconds."""
        event.listen(self.store.engine, "connect", lambda raw, _: raw.execute("PRAGMA busy_timeout = 50").close())
        self.store.close()

    def close(self) -> None:
        self.publisher.close()
        self.store.close()

    def count(self, query: str = "") -> int:
        return search.count(self.store, parse_query(query, NOW))

    def waiting(self) -> int:
        return waiting(self.app, [QUEUE])
