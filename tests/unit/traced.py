"""Running a task as a worker's child does, by Celery's own tracer, on a broker in memory."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Sequence
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery import Celery
from celery.app.trace import TraceInfo, build_tracer
from kombu import Message
from kombu.serialization import dumps

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import PublishError
from celery_guardrails.letters.codec import decode
from celery_guardrails.letters.record import Letter
from celery_guardrails.transport.publisher import Envelope, Publisher
from celery_guardrails.worker.main.request import ORIGINAL, GuardedRequest

__all__ = ["Gate", "error_of", "received", "trace"]


class Gate(Publisher):
    """The real publisher, with a note of what went through; queues in `closed` take nothing."""

    def __init__(self, app: Celery) -> None:
        super().__init__(app)
        self.sent: list[Envelope] = []
        self.closed: set[str] = set()
        guard = Guardrails.of(app)
        guard._publisher = self
        for service in ("dispatch", "dead_letters"):
            vars(guard).pop(service, None)  # made with the publisher before

    def publish(self, envelope: Envelope, declare: Sequence[Any] = ()) -> None:
        if envelope.routing_key in self.closed:
            raise PublishError(envelope.routing_key, "closed")
        super().publish(envelope, declare)
        self.sent.append(envelope)

    @property
    def letters(self) -> list[Letter]:
        return [decode(envelope.body) for envelope in self.sent if "guardrails_letter" in envelope.headers]

    @property
    def retries(self) -> list[Envelope]:
        return [envelope for envelope in self.sent if "retries" in envelope.headers]


def received(task: Any, *args: Any, headers: dict[str, Any] | None = None) -> GuardedRequest:
    """The request of one message, as a worker's main process makes it. What it gives back is in `rejected`.

    Args:
        task: a registered task.
        args: the task's.
        headers: what to change in the message's headers.
    """
    task_id = str(uuid.uuid4())
    message = {"task": task.name, "id": task_id, "root_id": task_id, "parent_id": None, "group": None, "lang": "py",
               "retries": 0, "eta": None, **(headers or {})}  # fmt: skip
    content_type, encoding, body = dumps((args, {}, {}), "json")
    delivery = {"exchange": "", "routing_key": "unit.tasks", "redelivered": False, "delivery_tag": task_id}
    got = Message(body, content_type=content_type, content_encoding=encoding, headers=message, delivery_info=delivery,
                  properties={"correlation_id": task_id})  # fmt: skip
    rejected: list[bool] = []
    task = task.app.tasks[task.name]  # as the worker's, not the decorator's proxy
    request = GuardedRequest(
        got, app=task.app, task=task, on_ack=lambda *_: None, on_reject=lambda _, __, requeue: rejected.append(requeue)
    )
    request.rejected = rejected
    return request


def error_of(outcome: Any) -> Any:
    """What the main process finds in what the tracer gave."""
    info: ExceptionInfo = pickle.loads(pickle.dumps(outcome.retval))
    return info.exception.exc if isinstance(info.exception, ExceptionWithTraceback) else info.exception


def trace(
    task: Any,
    *args: Any,
    whole: bool = True,
    headers: dict[str, Any] | None = None,
    info: Any = TraceInfo,
    **kwargs: Any,
) -> Any:
    """Run one attempt in the tracer; gives what the tracer gives: `retval` and `info`, whose `state` is the outcome.

    Args:
        task: a registered task.
        whole: hand the original message to the child, as our request class does.
        headers: what to change in the message's headers.
        info: what handles its outcome.
    """
    task = task.app.tasks[task.name]
    task_id = str(uuid.uuid4())
    message = {"task": task.name, "id": task_id, "root_id": task_id, "parent_id": None, "group": None, "lang": "py",
               "retries": 0, "eta": None, **(headers or {})}  # fmt: skip
    content_type, encoding, body = dumps((args, kwargs, {}), "json")
    request = {
        **message, "args": args, "kwargs": kwargs, "hostname": "w@here", "properties": {"correlation_id": task_id},
        "delivery_info": {"exchange": "", "routing_key": "unit.tasks", "priority": 4},
    }  # fmt: skip
    if whole:
        request["properties"] = {**request["properties"], ORIGINAL: (body, content_type, encoding, message, "arrival")}
    return build_tracer(task.name, task, app=task.app, Info=info)(task_id, args, kwargs, request)
