"""The letter of a message that never became a task: its task is unknown, or the message cannot be read.

Owns what is taken from such a message, and its identity: the same message gives the same letter, and two messages never
share a letter. Must not trust anything in the message, and must not know when a letter is made (`intake.py`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4, uuid5

from celery.exceptions import InvalidTaskError

from celery_guardrails import clock
from celery_guardrails.app.carried import CARRIERS, arguments_of, carried_name, carrier_in
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.in_force import is_guarded, subject_of
from celery_guardrails.letters.codec import json_safe
from celery_guardrails.letters.header import read_header
from celery_guardrails.letters.preview import OVERSIZED_LIMIT, PREVIEW_LIMIT, unknown_args
from celery_guardrails.letters.record import (
    Death,
    Letter,
    LetterFailure,
    OriginalMessage,
    Place,
    Preview,
    Shown,
    Subject,
)
from celery_guardrails.letters.redaction import redacted
from celery_guardrails.letters.replay import BROKER_HEADERS
from celery_guardrails.letters.work import Work
from celery_guardrails.policy import Policy, describe
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.policy.fingerprint import UNDECODABLE, UNKNOWN_TASK
from celery_guardrails.redaction import Redactor
from celery_guardrails.transport.body import as_published
from celery_guardrails.transport.routing import queue_name
from celery_guardrails.worker.failure import sentry
from celery_guardrails.worker.failure.letter import preview_of
from celery_guardrails.worker.failure.outcome import publish_letter
from celery_guardrails.worker.failure.sent_repr import sender_text
from celery_guardrails.worker.failure.tracing import FailureSpan, with_span

__all__ = ["UNNAMED", "dead_letter_raw", "letter_of", "try_to_publish"]

logger = logging.getLogger("celery_guardrails.worker")

UNNAMED = "(undecodable)"
"""The task of a letter whose message names none."""

_UNREAD = UUID("0d1cf6b6-7c0f-5e1a-9d2e-7a0f7f1be0a4")
_LONGEST_NAME = 255
# Headers that a broker or kombu writes on the way: with or without them it is the same message.
_PASSING = frozenset({*BROKER_HEADERS, "redelivered"})
_HEADERS = "application_headers"  # AMQP's properties hold the headers once more
_PRIORITY = range(256)
_RELATED = ("root_id", "parent_id", "group")


@dataclass(frozen=True, slots=True)
class _Unread:
    """A message that does not become a task here: what is wrong with it, where and when."""

    guard: Guardrails
    original: OriginalMessage
    reason: Reason
    exc: BaseException
    worker: str
    now: datetime

    def death(self, identity: str) -> Death:
        """Why the message is dead. `identity` is different for each message."""
        hide = self.guard.redactor().text
        failure = describe(self.exc, self.now, with_traceback=False, hide=hide)
        unknown = self.reason is Reason.UNKNOWN_TASK
        # a parser's further lines quote the text that it could not read
        said = failure.message.partition("\n")[0]
        problem = said if isinstance(self.exc, InvalidTaskError) else f"{type(self.exc).__name__}: {said}"
        problem = hide("this worker has no task of that name" if unknown else problem)
        described = LetterFailure(
            type=failure.error,
            message=problem,
            category=Category.NOT_FOUND if unknown else Category.VALIDATION,
            fingerprint=UNKNOWN_TASK if unknown else UNDECODABLE,
        )
        # a tag may hold half a surrogate pair, which the name of a UUID must not
        name = f"{identity}/{self.reason.value}".encode("utf-8", "backslashreplace").decode()
        return Death(str(uuid5(_UNREAD, name)), self.reason, problem, described, self.now)

    def brief_letter(self, identity: str) -> Letter:
        """A letter that keeps the whole message, but says nothing of what is in it."""
        place = Place(self.guard.settings.environment, self.worker)
        shown = Shown(Preview(args=_not_read(self.original)))
        return Letter.of_message(self.original, Subject(UNNAMED, ""), self.death(identity), place, shown=shown)


def letter_of(
    guard: Guardrails, message: Any, reason: Reason, exc: BaseException, worker: str, consumed: Iterable[str]
) -> Letter:
    """The dead letter of a message from kombu. There is always a letter, whatever is in the message.

    Args:
        guard: the application's guardrails.
        message: the message, not acknowledged yet.
        reason: `unknown_task` or `undecodable`.
        exc: what is wrong with the message.
        worker: the worker's name.
        consumed: the queue that the message came from, or all queues that the worker consumes.
    """
    headers = message.headers if isinstance(message.headers, Mapping) else {}
    body = as_published(message.body, message.content_encoding)
    properties = message.properties if isinstance(message.properties, Mapping) else {}
    original = OriginalMessage.model_construct(
        body=body,
        content_type=_named(message.content_type),
        content_encoding=_named(message.content_encoding),
        headers=json_safe(headers),
        properties=json_safe({key: value for key, value in properties.items() if key != _HEADERS}),
        compressed=bool(message.errors),
    )
    unread = _Unread(guard, original, reason, exc, worker, clock.now())
    try:
        return _letter(unread, message, list(consumed))
    except Exception:
        logger.warning("the dead letter of an unreadable message has no details: they could not be read", exc_info=True)
        return unread.brief_letter(str(uuid4()))


def try_to_publish(guard: Guardrails, letter: Letter, queue: str | None = None) -> bool:
    """Publish a letter; returns whether the broker or the spool has taken it. Never raises.

    Args:
        guard: the application's guardrails.
        letter: the letter.
        queue: its dead-letter queue; `None`: the application's.
    """
    try:
        publish_letter(guard, letter, queue, letter.died_at)
    except Exception as exc:  # noqa: BLE001 whatever it is, the letter is not safe
        logger.warning("%s[%s] stays unacknowledged: %s", letter.task, letter.task_id, exc)
        return False
    return True


def dead_letter_raw(guard: Guardrails, raw: bytes, queue: str, tag: str) -> bool:
    """Dead-letter an item of a queue that is not a message; returns whether it may be removed. Never raises.

    People can look at such a letter and discard it, but not requeue it: there is nothing to run.

    Args:
        guard: the application's guardrails.
        raw: the item, byte for byte.
        queue: the queue that it was in.
        tag: tells the item from an equal item, and is the same at every delivery; `""` if there is no such tag.
    """
    try:
        problem = f"an item in {queue} is not a message: it has {len(raw)} bytes that no worker can read"
        original = OriginalMessage.model_construct(
            body=raw, content_type=None, content_encoding=None, headers={}, properties={"guardrails_raw_from": queue}
        )
        identity = f"raw/{queue}/{tag}/{hashlib.sha256(raw).hexdigest()}"
        unread = _Unread(guard, original, Reason.UNDECODABLE, InvalidTaskError(problem), "", clock.now())
        letter = unread.brief_letter(identity)
    except Exception:
        logger.warning("an unreadable item of %s stays where it is", queue, exc_info=True)
        return False
    with FailureSpan(letter.reason.value, None) as span:
        span.explain(letter.failure.type, letter.failure.message)
        if not try_to_publish(guard, letter):
            return False
    with sentry.one_event(sentry.Facts(letter, Policy(), guard.redactor(), guard.settings.alerts.group_by)):
        return True  # Celery never hears of it


def _letter(unread: _Unread, message: Any, consumed: list[str]) -> Letter:
    guard, original = unread.guard, unread.original
    fields = _fields(message, original)
    header = with_span(read_header(message.headers))
    delivery = message.delivery_info if isinstance(message.delivery_info, Mapping) else {}
    exchange, routing_key = _text(delivery.get("exchange")), _text(delivery.get("routing_key"))
    queue = _queue(guard, exchange, routing_key, consumed)
    task_id, published = _task_id(message, fields), _text(fields.get("task"))
    work = Work.of(
        header, task_id=task_id, task=published, queue=queue, body=original.body, properties=original.properties,
        arrival=None,
    )  # fmt: skip
    priority = original.properties.get("priority")
    name = _text(carried_name(fields.get("task"), *arguments_of(fields.get("payload")))) or published or UNNAMED
    task = _known(guard, unread.reason, fields)
    policy = guard.policy_of(task).policy if task is not None and is_guarded(subject_of(task)) else None
    redactor = guard.redactor(policy)
    letter = Letter.of_message(
        original,
        Subject(name, task_id, *(_text(fields.get(key)) or None for key in _RELATED)),
        unread.death(_identity(original, work)),
        Place(
            guard.settings.environment, unread.worker, queue, exchange, routing_key,
            priority if isinstance(priority, int) and priority in _PRIORITY else None,
        ),
        header=header,
        attempts=header.attempts,
        owner=policy,
        shown=Shown(_preview(guard, task, redactor, fields, original)),
    )  # fmt: skip
    return redacted(letter, redactor)


def _fields(message: Any, original: OriginalMessage) -> Mapping[str, Any]:
    """The fields of the task's message: the headers, or in Celery's protocol 1 the body, which then names the task."""
    headers = message.headers if isinstance(message.headers, Mapping) else {}
    payload = None
    if "task" not in headers or original.content_type == "application/json":
        try:
            payload = message.payload
        except Exception:  # noqa: BLE001 it is here because it cannot be read
            payload = None
    if "task" in headers:
        return {**headers, "payload": payload}
    if isinstance(payload, Mapping):
        arguments = [payload.get("args", ()), payload.get("kwargs", {}), None]
        return {**payload, **headers, "group": payload.get("taskset"), "payload": arguments}
    return headers


def _identity(original: OriginalMessage, work: Work) -> str:
    """A text that is different for each message: its work, and a digest of its content, because the work may be forged.

    Over AMQP a message that says nothing of its publish looks the same as another message with the same content, and as
    its own redelivery. Then each delivery gives a letter: two letters are better than none.
    """
    content = {key: value for key, value in original.headers.items() if key not in _PASSING}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    digest.update(b"\0" + original.body)
    return f"{work.key}/{digest.hexdigest()}"


def _task_id(message: Any, fields: Mapping[str, Any]) -> str:
    found = fields.get("id")
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)[:_LONGEST_NAME]
    properties = message.properties if isinstance(message.properties, Mapping) else {}
    return _text(found) or _text(properties.get("correlation_id"))


def _queue(guard: Guardrails, exchange: str, routing_key: str, consumed: list[str]) -> str:
    """The queue that the message came from. On a virtual transport the message itself names it, and may be wrong."""
    if len(consumed) == 1:
        return consumed[0]
    name = queue_name(guard.app, exchange, routing_key)
    return name if name in consumed or not consumed else ""


def _known(guard: Guardrails, reason: Reason, fields: Mapping[str, Any]) -> Any:
    """The task that a message is for, or its carrier; `None` if this worker does not know the task."""
    name = fields.get("task")
    task = guard.app.tasks.get(name) if isinstance(name, str) and reason is not Reason.UNKNOWN_TASK else None
    return task if task is None or name not in CARRIERS else carrier_in(task, fields.get("payload"))


def _preview(
    guard: Guardrails, task: Any, redactor: Redactor, fields: Mapping[str, Any], original: OriginalMessage
) -> Preview:
    """The arguments, if they can be read, with the names of the task's parameters; no values if the task is unknown.

    Raw bytes are never shown: it is not known which of them are secret.
    """
    payload = fields.get("payload")
    unread = Preview(args=_not_read(original))
    if payload is None:
        return unread
    limit = OVERSIZED_LIMIT if len(original.body) > guard.settings.dead_letter.max_payload else PREVIEW_LIMIT
    try:
        if isinstance(payload, (str, bytes, Mapping)):
            raise TypeError(f"a {type(payload).__name__} is not a list of arguments")
        args, kwargs, *_ = payload
    except (TypeError, ValueError):
        return Preview(args=unknown_args(payload) if not isinstance(payload, (list, tuple)) else _no_arguments(payload))
    try:
        sender = None
        if isinstance(args, (list, tuple)) and isinstance(kwargs, Mapping):
            sender = sender_text(guard.app, original.headers, args, kwargs, known=task is not None)
        return preview_of(task, args, kwargs, redactor, limit, sender)
    except Exception:  # noqa: BLE001 the letter is complete without a preview
        return unread


def _no_arguments(payload: Collection[Any]) -> str:
    return f"(a list of {len(payload)} in place of arguments)"


def _not_read(original: OriginalMessage) -> str:
    return f"({len(original.body)} bytes{', compressed,' if original.compressed else ''} that were not read)"


def _named(value: Any) -> str | None:
    return _text(value) or None


def _text(value: Any) -> str:
    """A text that JSON and every store can hold, at most 255 characters; `""` for a value that is not a text."""
    if not isinstance(value, str):
        return ""
    return value[:_LONGEST_NAME].encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
