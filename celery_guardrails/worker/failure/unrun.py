"""The dead letter of an attempt that is given up before it begins: it was cancelled, or its publish is in doubt.

Owns that letter. Making it twice makes the same letter, because its id follows from the work and the number of the
attempt.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kombu.compression import decompress
from kombu.serialization import loads, prepare_accept_content

from celery_guardrails.app.carried import CARRIERS, carrier_of
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.in_force import is_guarded, subject_of
from celery_guardrails.letters.codec import json_safe
from celery_guardrails.letters.header import Header, read_header
from celery_guardrails.letters.record import (
    Death,
    Letter,
    LetterFailure,
    OriginalMessage,
    Place,
    Preview,
    Shown,
    Subject,
    letter_id,
)
from celery_guardrails.letters.redaction import redacted
from celery_guardrails.letters.work import Work
from celery_guardrails.policy import Policy
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.waiting.protocol import WaitingTask
from celery_guardrails.worker.failure.letter import preview_of
from celery_guardrails.worker.failure.sent_repr import sender_text
from celery_guardrails.worker.failure.tracing import with_span

__all__ = ["Verdict", "unrun_letter"]

logger = logging.getLogger("celery_guardrails.worker")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an attempt is given up before it begins.

    `message`: the text of its failure if no attempt has failed before; `in_doubt`: the broker may have its message.
    """

    reason: Reason
    explanation: str
    message: str
    in_doubt: bool = False


def unrun_letter(guard: Guardrails, waiting: WaitingTask, verdict: Verdict, now: datetime) -> tuple[Letter, Policy]:
    """The dead letter of an attempt that is given up before it begins, and the policy of its task."""
    envelope = waiting.envelope
    arguments = _arguments(guard, waiting)
    task = _task(guard, waiting.task, arguments)
    policy = guard.policy_of(task).policy if task is not None and is_guarded(task) else Policy()
    headers = envelope.headers
    header, reason = with_span(read_header(headers)), verdict.reason
    letter = Letter.of_message(
        _message(envelope),
        Subject(
            waiting.task if task is None else subject_of(task).name, waiting.task_id, _text(headers.get("root_id")),
            _text(headers.get("parent_id")), _text(headers.get("group")),
        ),
        Death(
            letter_id(_work(waiting, header), waiting.attempt, header.generation, reason), reason, verdict.explanation,
            _failure(header, verdict), now,
            # a waiting attempt has not begun; of work that runs at most once, an earlier attempt may have
            may_have_run=verdict.in_doubt or (bool(header.attempts) and policy.acks == "early"),
        ),
        Place(
            guard.settings.environment, "", waiting.queue, envelope.exchange, envelope.routing_key, envelope.priority
        ),
        header=header,
        attempts=header.attempts,
        policy=policy,
        shown=Shown(_preview(guard, task, arguments, policy, headers)),
    )  # fmt: skip
    return redacted(letter, guard.redactor(policy)), policy


def _work(waiting: WaitingTask, header: Header) -> Work:
    envelope = waiting.envelope
    try:
        body = _decompressed(envelope)
    except Exception:  # noqa: BLE001 a compression that this process does not have
        body = envelope.body
    return Work.of(
        header,
        task_id=waiting.task_id,
        task=waiting.task,
        queue=waiting.queue,
        body=body,
        properties=envelope.properties,
        arrival=waiting.id,
    )


def _message(envelope: Envelope) -> OriginalMessage:
    return OriginalMessage.model_construct(
        body=envelope.body,
        content_type=envelope.content_type,
        content_encoding=envelope.content_encoding,
        headers=json_safe(envelope.headers),
        properties=json_safe(envelope.properties),
        compressed="compression" in envelope.headers,
    )


def _decompressed(envelope: Envelope) -> bytes:
    kind = envelope.headers.get("compression")
    return bytes(decompress(envelope.body, kind)) if kind else envelope.body


def _task(guard: Guardrails, name: str, arguments: tuple[Any, Any] | None) -> Any:
    """The task, or the carrier of one that a `map` or `starmap` runs; `None`: not known here."""
    task = guard.app.tasks.get(name)
    carrier = carrier_of(task, *arguments) if name in CARRIERS and arguments is not None else None
    return task if carrier is None else carrier


def _failure(header: Header, verdict: Verdict) -> LetterFailure:
    """The error of the last attempt, which is why another one was to follow; else the verdict."""
    kind, fingerprint = verdict.reason.value, f"v1:{verdict.reason.value}"
    if not header.attempts:
        return LetterFailure(type=kind, message=verdict.message, category=Category.UNKNOWN, fingerprint=fingerprint)
    last = header.attempts[-1]
    return LetterFailure(
        type=last.error, message=last.message, category=last.category, fingerprint=last.fingerprint or fingerprint
    )


def _arguments(guard: Guardrails, waiting: WaitingTask) -> tuple[Any, Any] | None:
    """Its arguments; `None` where this process cannot or must not decode them."""
    envelope = waiting.envelope
    try:
        accept = prepare_accept_content(guard.app.conf.accept_content)
        decoded = loads(_decompressed(envelope), envelope.content_type, envelope.content_encoding, accept=accept)
        return tuple(decoded[0]), dict(decoded[1])
    except Exception as exc:  # noqa: BLE001 only the preview is lost, the message is kept whole
        logger.info("no preview of the arguments of %s[%s]: %s", waiting.task, waiting.task_id, exc)
        return None


def _preview(
    guard: Guardrails, task: Any, arguments: tuple[Any, Any] | None, policy: Policy, headers: dict[str, Any]
) -> Preview:
    if arguments is None:
        return Preview()
    sender = sender_text(guard.app, headers, *arguments, known=task is not None)
    return preview_of(task, *arguments, guard.redactor(policy), sender=sender)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
