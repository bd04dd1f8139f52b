"""From a dead letter to the message that runs the task again.

Owns the changes for the way back (retries, eta, expires, our own header), and drops the headers that brokers have
added. The transport publishes the message.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from celery_guardrails.letters.header import Header, read_header, write_header
from celery_guardrails.letters.record import Letter, OriginalMessage

__all__ = ["BROKER_HEADERS", "ReplayMessage", "is_once", "replay"]

BROKER_HEADERS = frozenset(
    (
        "x-death",
        "x-delivery-count",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
        # kombu's Redis transport sets this header; a message that is published again has not been delivered before
        "redelivered",
        # kombu decompresses a body before it delivers it, but leaves this header
        "compression",
    )
)
"""Headers that describe a past delivery, not the work."""


@dataclass(frozen=True, slots=True)
class ReplayMessage:
    """A message to publish as it stands: the original bytes, to where the original went.

    `once`: the work runs at most once, so the message must not be published again if its confirmation gets lost.
    """

    dead_letter_id: str
    task: str
    body: bytes
    content_type: str | None
    content_encoding: str | None
    headers: dict[str, Any]
    queue: str
    exchange: str
    routing_key: str
    priority: int | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    once: bool = False


def replay(letter: Letter, generation: int, dead_letter_id: str, claim_token: str, now: datetime) -> ReplayMessage:
    """The message that puts this work back.

    Body and routing are the original's. Attempts start again at 1, and the deadline starts at `now`. `expires` and
    `eta` are dropped, because a person decided that the work should run now. The history of earlier attempts is kept.

    Args:
        letter: the latest death of the work.
        generation: how many times the work has been put back, this time included.
        dead_letter_id: the id under which the archive keeps the work.
        claim_token: the secret of this requeue. Reports of its end must bring it back.
        now: the instant of the requeue.
    """
    headers = _travelling(letter.message)
    headers.update(retries=0, eta=None, expires=None)
    header = _header(letter, read_header(headers), dead_letter_id, now)
    write_header(headers, replace(header, generation=generation, claim_token=claim_token))
    original = letter.message.properties
    return ReplayMessage(
        dead_letter_id=dead_letter_id,
        task=letter.task,
        body=letter.message.body,
        content_type=letter.message.content_type,
        content_encoding=letter.message.content_encoding,
        headers=headers,
        queue=letter.queue,
        exchange=letter.exchange,
        routing_key=letter.routing_key,
        priority=letter.priority,
        properties={key: original[key] for key in ("correlation_id", "reply_to") if original.get(key)},
        once=is_once(letter),
    )


def is_once(letter: Letter) -> bool:
    """Whether the work runs at most once, by the policy that was in force."""
    return letter.policy.get("acks") == "early"


def _header(letter: Letter, before: Header, dead_letter_id: str, now: datetime) -> Header:
    return Header(
        published_at=before.published_at or letter.published_at,
        requeued_at=now,
        attempts=tuple(attempt.entry() for attempt in letter.attempts),
        dead_letter_id=dead_letter_id,
        # if the message does not name its publish, the letter's id names it from here on
        work=before.work or dead_letter_id,
        id_given=before.id_given or before.work is None,
        described=before.described,
        span=letter.span or before.span,
        key=before.key,
    )


def _travelling(message: OriginalMessage) -> dict[str, Any]:
    """The headers to publish again; with `compression` if the body could not be decompressed."""
    headers = {key: value for key, value in message.headers.items() if key not in BROKER_HEADERS}
    if message.compressed and "compression" in message.headers:
        headers["compression"] = message.headers["compression"]
    return headers
