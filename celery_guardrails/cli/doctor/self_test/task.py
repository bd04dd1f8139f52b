"""The canary, its queue, and the journal in which its worker writes for the command what happened.

Runs in both processes. It must not depend on anything that the application's settings may change: where they give the
canary another policy, it dies sooner, but not otherwise.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery, Task
from kombu import Exchange, Queue

from celery_guardrails import Constant, GuardedTask, PermanentError, Policy, TransientError
from celery_guardrails.letters.header import read_header
from celery_guardrails.letters.record import SELF_TEST

__all__ = ["Journal", "canary_queue", "generation_of", "register_canary"]

_ENDS_BY_ITSELF = 600_000
"""Milliseconds without a consumer after which RabbitMQ deletes the queue, for a test that could not delete it."""


class Journal:
    """What happened: a file of JSON lines, which the worker writes and the command reads."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, event: str, **facts: Any) -> None:
        """Add an event."""
        line = json.dumps({"event": event, "at": time.time(), **facts}) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def find(self, event: str, **facts: Any) -> Mapping[str, Any] | None:
        """The first event of this kind with these facts, if it has happened."""
        try:
            lines = self._path.read_text().splitlines()
        except OSError:
            return None
        wanted = {"event": event, **facts}
        for line in lines:
            noted: dict[str, Any] = json.loads(line)
            if wanted.items() <= noted.items():
                return noted
        return None


def canary_queue(app: Celery, name: str) -> Queue:
    """Make the canary's own queue, of the application's default type, and add it to the application's queues."""
    arguments: dict[str, Any] = {}
    with app.connection_for_write() as connection:
        on_rabbitmq = connection.transport.driver_type == "amqp"
        if on_rabbitmq:
            arguments["x-expires"] = _ENDS_BY_ITSELF
            if app.conf.get("task_default_queue_type") == "quorum":
                arguments["x-queue-type"] = "quorum"
    queue = Queue(name, routing_key=name, durable=True, queue_arguments=arguments or None)
    app.amqp.queues.add(queue)
    if on_rabbitmq:
        queue.exchange = Exchange("")  # in place of the application's own, which this user may be unable to declare
    return queue


def register_canary(app: Celery, journal: Journal | None = None) -> Task:
    """Register the canary as a task of this application; with a journal in the process that runs it."""

    def self_test(self: Any, retry: bool) -> str:
        generation, retries = generation_of(self.request), int(self.request.retries or 0)
        if journal is not None:
            journal.note("attempt", generation=generation, retries=retries)
        if generation:
            return "the canary lives"
        if retry and not retries:
            raise TransientError("self-test: the first attempt fails on purpose")
        raise PermanentError("self-test: it fails for good on purpose; doctor --self-test requeues it")

    policy = Policy(max_attempts=3, backoff=Constant("1s"), jitter="none", owner="doctor --self-test")
    declared = app.task(shared=False, bind=True, base=GuardedTask, name=SELF_TEST, policy=policy, ignore_result=True)(
        self_test
    )
    return app.tasks[declared.name]


def generation_of(request: Any) -> int:
    """How often the work of this request has been requeued."""
    return read_header(request.__dict__).generation
