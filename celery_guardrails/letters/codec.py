"""Dead letters as bytes and back.

Owns the wire form: JSON, schema version 1. A letter of a newer version is refused, so that it stays in the queue. A
message that is not a letter is made into one, with the reason `undecodable`, so that no message is thrown away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from pydantic import ValidationError

from celery_guardrails.errors import GuardrailsError
from celery_guardrails.letters.record import (
    SCHEMA_VERSION,
    Death,
    Letter,
    LetterFailure,
    OriginalMessage,
    Place,
    Preview,
    Shown,
    Subject,
)
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category

__all__ = ["Named", "NewerSchema", "decode", "encode", "json_safe", "named_in", "unreadable"]

_SAFE = frozenset((type(None), bool, int))
_UNREADABLE = UUID("b6f9ad3b-6a8e-5a77-8a32-0f5b1b6a3a52")
_DEEPEST = 64
"""The deepest nesting that is read: our letters have under 20 levels, and deeper data would break recursive code."""
# JSON in bytes can hold a surrogate only with one of these: an escape, its form in UTF-8, another encoding.
_DOUBTFUL = (b"\\u", b"\xed", b"\0")


class NewerSchema(GuardrailsError):
    """A dead letter was written by a newer version. `.version` is its schema version."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version

    def __str__(self) -> str:
        return f"dead letter has schema version {self.version}, this version reads up to {SCHEMA_VERSION}: upgrade"


class Named(NamedTuple):
    """What a letter calls itself: its id, its environment and its task."""

    id: str
    environment: str
    task: str


def encode(letter: Letter) -> bytes:
    """The letter as it travels and as the archive keeps it."""
    try:
        return letter.model_dump_json(exclude_none=True).encode()
    except ValueError:  # lone surrogates: JSON can write them and UTF-8 cannot, and a body may hold anything
        return json.dumps(json_safe(letter.model_dump(exclude_none=True))).encode()


def decode(body: bytes | str) -> Letter:
    """Read a letter.

    Raises:
        NewerSchema: a newer version wrote it.
        ValueError: it is not a dead letter.
    """
    try:
        raw = json.loads(body)
        doubtful = isinstance(body, str) or any(mark in body for mark in _DOUBTFUL)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"not JSON: {exc}") from exc
    if not isinstance(raw, dict):
        raise ValueError("not a JSON object")
    if _opens(body) > _DEEPEST and _is_deep(raw):
        raise ValueError(f"it nests over {_DEEPEST} levels deep")
    version = raw.get("v")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError("no schema version")
    if version > SCHEMA_VERSION:
        raise NewerSchema(version)
    try:
        return Letter.model_validate(_storable(raw) if doubtful else raw)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from exc


def named_in(body: bytes) -> Named | None:
    """What a message that is no letter of this version calls itself; `None`: it says nothing of the kind.

    A worker has counted the death under that id, and the archive has it under another one.
    """
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict) or not isinstance(raw.get("id"), str):
        return None
    return Named(*(_encodable(str(raw.get(name, ""))) for name in Named._fields))


def unreadable(
    body: bytes,
    problem: str,
    queue: str,
    now: datetime,
    *,
    environment: str = "",
    content_type: str | None = None,
    headers: Mapping[str, Any] | None = None,
) -> Letter:
    """A letter made of a message in the dead-letter queue that is not a letter, so that people can see it.

    Its bytes are kept, and not shown: nobody knows which of them are secret.
    Its id is computed from the bytes: the same message seen twice gives the same letter.
    """
    digest = hashlib.sha256(body).hexdigest()
    message = OriginalMessage.model_construct(
        body=body, content_type=content_type, content_encoding=None, headers=json_safe(headers or {}), properties={}
    )
    failure = LetterFailure(
        type="undecodable", message=problem, category=Category.VALIDATION, fingerprint="v1:undecodable"
    )
    text = f"a message in {queue} could not be archived as a dead letter: {problem}"
    return Letter.of_message(
        message,
        Subject("(undecodable)", ""),
        Death(str(uuid5(_UNREADABLE, digest)), Reason.UNDECODABLE, text, failure, now),
        Place(environment),
        shown=Shown(Preview(args=f"({len(body)} bytes that were not read)")),
    )


def json_safe(value: Any, depth: int = 12) -> Any:
    """A copy of a broker's data that JSON can hold: unknown kinds become text."""
    if isinstance(value, str):
        return _encodable(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if depth <= 0:
        return str(type(value))
    if isinstance(value, Mapping):
        # each letter's headers and properties come here, and half of their values need no look
        return {
            _encodable(str(key)): item if type(item) in _SAFE else json_safe(item, depth - 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_safe(item, depth - 1) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "replace")
    return str(value)


def _encodable(text: str) -> str:
    """The text, without lone surrogates: JSON can write them, and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _opens(body: bytes | str) -> int:
    """How many levels the JSON opens at most: cheap to find, and for most letters enough to know that none is deep."""
    return body.count("{") + body.count("[") if isinstance(body, str) else body.count(b"{") + body.count(b"[")


def _is_deep(raw: dict[str, Any]) -> bool:
    """Whether data nests deeper than our letters do; without recursion, which would fail first."""
    level: list[Any] = [raw]
    for _ in range(_DEEPEST):
        inner = (item for each in level for item in (each.values() if isinstance(each, dict) else each))
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def _storable(raw: dict[str, Any]) -> dict[str, Any]:
    """The data, or a copy without lone surrogates: no store can keep them."""
    try:
        json.dumps(raw, ensure_ascii=False).encode()
    except ValueError:
        return {key: json_safe(value) for key, value in raw.items()}
    return raw
