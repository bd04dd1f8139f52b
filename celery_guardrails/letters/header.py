"""The `guardrails` header of a guarded task's message: what an attempt knows of the attempts before it.

Owns the fields `v`, `published_at`, `due_at`, `work`, `given`, `requeued_at`, `history`, `crashes`, `dead_letter_id`,
`generation`, `claim_token`, `described`, `span`, `key` and `waits`, at most 4 KiB as JSON. Reading never raises: a
damaged header counts as absent. It must not know Celery.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from celery_guardrails.clock import LATEST, LONGEST, from_epoch
from celery_guardrails.letters.identity import is_letter_id
from celery_guardrails.policy.failure import Attempt, Category

__all__ = [
    "HEADER",
    "KEPT_FIRST",
    "KEPT_LAST",
    "KEY",
    "LONGEST_KEY",
    "MAX_BYTES",
    "SPAN",
    "Header",
    "read_header",
    "span_text",
    "without_claim",
    "write_header",
]

T = TypeVar("T")

HEADER = "guardrails"
VERSION = 1
MAX_BYTES = 4096
KEPT_FIRST, KEPT_LAST = 2, 8
DUE = "it was due"
SPAN = "span"
"""The field that a task looks for before its body begins, so by its name."""
KEY = "key"
"""The field with the sender's idempotency key, which a worker looks for by its name, too."""
LONGEST_KEY = 512
"""Bytes of such a key in UTF-8."""
_CLAIM = "claim_token"
_MESSAGE_LENGTHS = (200, 100, 40, 0)
_ERROR, _WORKER = 120, 80
_LONGEST_ID = 255
_LONGEST_NAME = 64
_LONGEST_DELAY = LONGEST.total_seconds()
_SPAN_FORM = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Header:
    """The content of the header.

    `published_at` is the instant of the first publish, `None` if the publisher did not write it. `due_at` is when the
    first attempt was due, if the sender gave a `countdown` or an `eta`. `requeued_at` is when somebody last put the
    work back. The deadline counts from the latest of the three. `generation` says how often the work was put back,
    `dead_letter_id` (a UUID) from which letter. `claim_token` is the secret of that requeue: it proves to the guardian
    that a report comes from this work. `crashes` counts worker deaths. `work` names the publish (`letters/work.py`),
    `None` if the publisher did not write it. `id_given` says that somebody chose the task id, so that other works may
    have the same id. `described` names the arguments, `args` or `kwargs`, for which the sender gave a text of its own
    (`argsrepr`, `kwargsrepr`). `span` is the latest attempt's span in the application's traces, in the form of W3C's
    `traceparent`, `None` if no attempt had a span. `key` is the idempotency key that the sender gave. `waits` says how
    often this attempt was put off, because the same work was being done elsewhere.
    """

    published_at: datetime | None = None
    requeued_at: datetime | None = None
    attempts: tuple[Attempt, ...] = ()
    crashes: int = 0
    dead_letter_id: str | None = None
    generation: int = 0
    work: str | None = None
    id_given: bool = False
    due_at: datetime | None = None
    described: tuple[str, ...] = ()
    claim_token: str | None = field(default=None, repr=False)
    span: str | None = None
    key: str | None = None
    waits: int = 0

    @property
    def names_its_work(self) -> bool:
        """Whether the header alone says to which work the message belongs."""
        return self.work is not None or self.dead_letter_id is not None

    @property
    def owns_its_id(self) -> bool:
        """Whether the task id was made for this publish: a result under that id then belongs to this work."""
        return self.work is not None and not self.id_given

    @property
    def life_starts_at(self) -> datetime | None:
        """The instant since which this work may have run: that of its publish or of its requeue."""
        return self.requeued_at or self.published_at

    @property
    def deadline_starts_at(self) -> datetime | None:
        """The instant from which the policy's deadline counts."""
        return self.due_at if self.deadline_event == DUE else self.life_starts_at

    @property
    def deadline_event(self) -> str:
        """In words, what happened when the deadline began to count."""
        if self.requeued_at is not None:
            return "it was put back"
        late = self.due_at is not None and (self.published_at is None or self.due_at > self.published_at)
        return DUE if late else "the first publish"

    def with_attempt(self, attempt: Attempt) -> Header:
        """This header with one more failed attempt; of many attempts, it keeps the first 2 and the last 8."""
        kept = tuple(_few((*self.attempts, attempt)))
        # not dataclasses.replace, which takes three times as long: every retry comes here
        return Header(
            self.published_at, self.requeued_at, kept, self.crashes, self.dead_letter_id, self.generation, self.work,
            self.id_given, self.due_at, self.described, self.claim_token, self.span, self.key,
        )  # fmt: skip

    def encode(self) -> dict[str, Any]:
        """The JSON-safe header, at most 4 KiB: it shortens messages first, then drops attempts in the middle."""
        attempts = self.attempts
        for length in _MESSAGE_LENGTHS:
            encoded = self._encode(attempts, length)
            if len(json.dumps(encoded)) <= MAX_BYTES:
                return encoded
        while len(attempts) > 1:
            middle = min(KEPT_FIRST, len(attempts) - 1)
            attempts = attempts[:middle] + attempts[middle + 1 :]
            encoded = self._encode(attempts, 0)
            if len(json.dumps(encoded)) <= MAX_BYTES:
                return encoded
        return self._encode((), 0)

    def _encode(self, attempts: tuple[Attempt, ...], message_length: int) -> dict[str, Any]:
        encoded: dict[str, Any] = {"v": VERSION}
        if self.published_at is not None:
            encoded["published_at"] = round(self.published_at.timestamp(), 3)
        if self.work is not None:
            encoded["work"] = self.work
        if self.id_given:
            encoded["given"] = True
        if self.due_at is not None:
            encoded["due_at"] = round(self.due_at.timestamp(), 3)
        if self.described:
            encoded["described"] = list(self.described)
        if self.span is not None:
            encoded[SPAN] = self.span
        if self.key is not None:
            encoded[KEY] = self.key
        if self.waits:
            encoded["waits"] = self.waits
        if attempts:
            encoded["history"] = [_encode_attempt(attempt, message_length) for attempt in attempts]
        if self.crashes:
            encoded["crashes"] = self.crashes
        if self.dead_letter_id is not None:
            encoded["dead_letter_id"] = self.dead_letter_id
            encoded["generation"] = self.generation
            if self.claim_token is not None:
                encoded[_CLAIM] = self.claim_token
        if self.requeued_at is not None:
            encoded["requeued_at"] = round(self.requeued_at.timestamp(), 3)
        return encoded


def read_header(headers: Mapping[str, Any] | None, *, attempts: bool = True) -> Header:
    """The guardrails header among a message's headers.

    It may stand at the top, and in the nested `headers` that Sentry's patch of `apply_async` makes; the header with the
    longer history wins. A header that cannot be read counts as absent.

    Args:
        headers: the message's, or a request's attributes.
        attempts: whether the attempts are wanted: they are most of the reading.
    """
    if not isinstance(headers, Mapping):
        return Header()
    nested = headers.get("headers")
    outer, inner = headers.get(HEADER), nested.get(HEADER) if isinstance(nested, Mapping) else None
    if inner is None or outer is None or _is_same(outer, inner):
        return _decode(inner if outer is None else outer, attempts)
    found = max(_decode(outer), _decode(inner), key=lambda header: len(header.attempts))
    return found if attempts else replace(found, attempts=())


def without_claim(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers without the secret of a requeue, for whoever shows them: Celery logs those of an unknown task."""
    shown = dict(headers)
    nested = shown.get("headers")
    if isinstance(nested, Mapping) and HEADER in nested:
        shown["headers"] = without_claim(nested)
    if isinstance(ours := shown.get(HEADER), Mapping):
        shown[HEADER] = {name: value for name, value in ours.items() if name != _CLAIM}
    return shown


def write_header(headers: MutableMapping[str, Any], header: Header) -> None:
    """Put the header where every reader finds it: at the top, and in a nested `headers` if there is one."""
    encoded = header.encode()
    headers[HEADER] = encoded
    nested = headers.get("headers")
    if isinstance(nested, Mapping):
        headers["headers"] = {**nested, HEADER: encoded}


def span_text(raw: Any) -> str | None:
    """A span in the form of W3C's `traceparent`; `None` for whatever else a message may say."""
    return raw if isinstance(raw, str) and _SPAN_FORM.fullmatch(raw) else None


def _encode_attempt(attempt: Attempt, message_length: int) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "n": attempt.number,
        "started_at": round(attempt.started_at.timestamp(), 3) if attempt.started_at else None,
        "ended_at": round(attempt.ended_at.timestamp(), 3),
        "error": attempt.error[:_ERROR],
        "message": attempt.message[:message_length],
        "category": attempt.category.value,
        "fingerprint": attempt.fingerprint[:_LONGEST_NAME],
        "worker": attempt.worker[:_WORKER],
        "delay": None if attempt.delay is None else round(attempt.delay, 3),
    }
    if attempt.generation:
        encoded["generation"] = attempt.generation
    return encoded


def _is_same(outer: Any, inner: Any) -> bool:
    """Whether both are one header, as in a task's request: Celery copies custom headers into a nested `headers`."""
    try:
        return outer is inner or bool(outer == inner)
    except Exception:  # noqa: BLE001 a message may hold anything, nested without end, say
        return False


def _decode(raw: Any, with_attempts: bool = True) -> Header:
    if not isinstance(raw, Mapping):
        return Header()
    history = raw.get("history") if with_attempts else None
    attempts = [_decode_attempt(entry) for entry in _few(history)] if isinstance(history, (list, tuple)) else []
    letter = _text(raw.get("dead_letter_id"))
    letter = letter if is_letter_id(letter) else ""
    return Header(
        published_at=_instant(raw.get("published_at")),
        requeued_at=_instant(raw.get("requeued_at")),
        attempts=tuple(attempt for attempt in attempts if attempt is not None),
        crashes=_count(raw.get("crashes")),
        dead_letter_id=letter or None,
        generation=_count(raw.get("generation")) if letter else 0,
        claim_token=(_text(raw.get(_CLAIM), _LONGEST_NAME) or None) if letter else None,
        work=_text(raw.get("work"), _LONGEST_NAME) or None,
        id_given=raw.get("given") is True,
        due_at=_instant(raw.get("due_at")),
        described=_described(raw.get("described")),
        span=span_text(raw.get(SPAN)),
        key=_text(raw.get(KEY), LONGEST_KEY + 1) or None,
        waits=_count(raw.get("waits")),
    )


def _few(history: Sequence[T]) -> Sequence[T]:
    """The first 2 and the last 8 of many attempts: a publisher may write a history of 50,000, a worker does not."""
    if len(history) <= KEPT_FIRST + KEPT_LAST:
        return history
    return [*history[:KEPT_FIRST], *history[-KEPT_LAST:]]


def _decode_attempt(raw: Any) -> Attempt | None:
    if not isinstance(raw, Mapping):
        return None
    ended_at = _instant(raw.get("ended_at"))
    if ended_at is None:
        return None
    return Attempt(
        number=_count(raw.get("n")),
        started_at=_instant(raw.get("started_at")),
        ended_at=ended_at,
        error=_text(raw.get("error"), _ERROR),
        message=_text(raw.get("message"), _MESSAGE_LENGTHS[0]),
        category=_category(raw.get("category")),
        fingerprint=_text(raw.get("fingerprint"), _LONGEST_NAME),
        worker=_text(raw.get("worker"), _WORKER),
        delay=_delay(raw.get("delay")),
        generation=_count(raw.get("generation")),
    )


def _instant(raw: Any) -> datetime | None:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not 0 <= raw <= LATEST:
        return None
    return from_epoch(raw)


def _delay(raw: Any) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not 0 <= raw <= _LONGEST_DELAY:
        return None
    return float(raw)


def _described(raw: Any) -> tuple[str, ...]:
    return tuple(which for which in ("args", "kwargs") if isinstance(raw, (list, tuple)) and which in raw)


def _count(raw: Any) -> int:
    return raw if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw < 2**31 else 0


def _text(raw: Any, limit: int = _LONGEST_ID) -> str:
    # JSON can write lone surrogates, and no place to which this text is copied can hold them
    return raw[:limit].encode("utf-8", "replace").decode() if isinstance(raw, str) else ""


def _category(raw: Any) -> Category:
    try:
        return Category(raw)
    except ValueError:
        return Category.UNKNOWN
