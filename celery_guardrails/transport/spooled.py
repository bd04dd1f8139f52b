"""One entry of the spool as data, and as bytes and back.

Owns the form of a file: JSON with the schema version `v`, a `digest` of the rest (SHA-256), and `entry`: `what`, `at`,
`due_at`, `declare`, `letter`, and `envelope` with the message's body in base64 and whether it must be published only
`once` (older entries lack this field: they may be published again). AMQP allows values in headers that JSON does not
have (bytes, instants, decimals): they are written with a tag, and are read back as the same values.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from celery_guardrails.errors import GuardrailsError
from celery_guardrails.transport.publisher import Envelope

__all__ = ["SPOOL_VERSION", "NewerEntry", "Spooled", "pack", "tagged", "unpack", "untagged"]

SPOOL_VERSION = 1
_TAG = "$"


class NewerEntry(GuardrailsError):
    """A newer version wrote this entry. `.version` is its schema version."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version

    def __str__(self) -> str:
        return f"it has schema version {self.version}, this version reads up to {SPOOL_VERSION}: upgrade"


@dataclass(frozen=True, slots=True)
class Spooled:
    """One entry: an envelope that was not published.

    `due_at` is when its message may run (`None`: at once, and for dead letters). `declare` names the application's
    queues to declare before the publish. `what` names the message in words without arguments, such as
    `dead letter of shop.send_receipt[4f1c]`. `at` is when it was spooled. `letter` says that the message is for the
    guardian (a dead letter, a recovery): its queue is declared as dead-letter queues are.
    """

    envelope: Envelope
    declare: tuple[str, ...]
    due_at: datetime | None
    what: str
    at: datetime
    letter: bool = False


def pack(entry: Spooled) -> bytes:
    """An entry as the bytes of a file.

    Raises:
        ValueError: a header is nested too deeply, or holds itself.
    """
    try:
        written = _written(entry)
        return json.dumps({"v": SPOOL_VERSION, "digest": _digest(written), "entry": written}).encode()
    except RecursionError as exc:
        raise ValueError("its headers are nested too deeply") from exc


def unpack(data: bytes) -> Spooled:
    """Read what `pack` wrote.

    Raises:
        NewerEntry: a newer version wrote the file.
        ValueError: the file is cut short, changed, or not a spool entry.
    """
    try:
        raw = json.loads(data)
        version = raw["v"]
        if isinstance(version, int) and version > SPOOL_VERSION:
            raise NewerEntry(version)
        if _digest(raw["entry"]) != raw["digest"]:
            raise ValueError("its content does not match its digest, so it was changed or damaged")
        return _read(raw["entry"])
    except (KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as exc:
        raise ValueError(f"it is not a spool entry: {type(exc).__name__}: {exc}") from exc


def _written(entry: Spooled) -> dict[str, Any]:
    envelope = entry.envelope
    return {
        "what": entry.what,
        "at": entry.at.isoformat(),
        "due_at": entry.due_at.isoformat() if entry.due_at else None,
        "declare": list(entry.declare),
        "letter": entry.letter,
        "envelope": {
            "body": base64.b64encode(envelope.body).decode(),
            "routing_key": envelope.routing_key,
            "exchange": envelope.exchange,
            "content_type": envelope.content_type,
            "content_encoding": envelope.content_encoding,
            "headers": tagged(envelope.headers),
            "properties": tagged(envelope.properties),
            "priority": envelope.priority,
            "once": envelope.once,
        },
    }


def _read(raw: Mapping[str, Any]) -> Spooled:
    envelope = dict(raw["envelope"])
    envelope["body"] = base64.b64decode(envelope["body"], validate=True)
    envelope["headers"] = untagged(envelope["headers"])
    envelope["properties"] = untagged(envelope["properties"])
    return Spooled(
        envelope=Envelope(**envelope),
        declare=tuple(raw["declare"]),
        due_at=datetime.fromisoformat(raw["due_at"]) if raw["due_at"] else None,
        what=str(raw["what"]),
        at=datetime.fromisoformat(raw["at"]),
        letter=bool(raw["letter"]),
    )


def _digest(written: Any) -> str:
    return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()


def tagged(value: Any) -> Any:
    """A copy that JSON can hold: other values become `{"$": kind, "v": ...}`, unknown kinds become text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        if _TAG not in value and all(isinstance(key, str) for key in value):
            return {key: tagged(item) for key, item in value.items()}
        return {_TAG: "map", "v": [[tagged(key), tagged(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [tagged(item) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {_TAG: "bytes", "v": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, datetime):
        return {_TAG: "datetime", "v": value.isoformat()}
    if isinstance(value, Decimal):
        return {_TAG: "decimal", "v": str(value)}
    return str(value)


def untagged(value: Any) -> Any:
    """The value of which `tagged` made a copy.

    Raises:
        ValueError: the copy has a kind of value that this version does not know.
    """
    if isinstance(value, list):
        return [untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_TAG)
    if kind is None:
        return {key: untagged(item) for key, item in value.items()}
    held = value["v"]
    if kind == "map":
        return {untagged(key): untagged(item) for key, item in held}
    if kind == "bytes":
        return base64.b64decode(held, validate=True)
    if kind == "datetime":
        return datetime.fromisoformat(held)
    if kind == "decimal":
        return Decimal(held)
    raise ValueError(f"unknown kind of value {kind!r}")
