"""One entry of the journal as data, and as bytes and back.

Owns the form of a file: a line that begins with the entry's state, then `guardrails-journal`, the schema version, the
lengths of head and body and their digest (BLAKE2b); then a head in JSON (`task_id`, `task`, `worker`, `queue`, `tag`
and all of the message except its body); then the body. The rest is padding. The state is one byte, so that it can be
changed in place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from celery_guardrails.transport.spooled import NewerEntry, tagged, untagged

__all__ = ["JOURNAL_VERSION", "State", "Taken", "pack", "unpack"]

JOURNAL_VERSION = 1
_BLOCK = 4096
"""Files grow by whole blocks: a new entry in an old file then keeps its length. A new length costs a further sync."""
_MAGIC = b"guardrails-journal"


class State(Enum):
    """How far a message has come: `FREE`, the file holds none; `WRITTEN`, before its acknowledgement; `ACKNOWLEDGED`.

    The entry is synced when it is written; a later change of its state is not. After a power cut the file may hold an
    earlier state.
    """

    FREE = b"F"
    WRITTEN = b"W"
    ACKNOWLEDGED = b"A"


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that runs at most once, as its worker took it, byte for byte.

    `properties` and `delivery` (exchange, routing key, priority, redelivered, and the queue if it is known) are those
    of the worker's request. `tag` is the broker's delivery tag. `arrival` is the worker's own name for the delivery, if
    nothing in the message names its work. `at` is the instant just before the task began.
    """

    body: bytes
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    delivery: Mapping[str, Any]
    content_type: str | None
    content_encoding: str | None
    worker: str
    tag: str
    at: datetime
    arrival: str | None = None


def pack(entry: Taken) -> bytes:
    """An entry as the bytes of a file, in the state `WRITTEN`.

    Raises:
        ValueError: a header is nested too deeply, or holds itself.
    """
    try:
        head = json.dumps(
            {
                "headers": tagged(entry.headers),
                "properties": tagged(entry.properties),
                "delivery": tagged(entry.delivery),
                "content_type": entry.content_type,
                "content_encoding": entry.content_encoding,
                "worker": entry.worker,
                "tag": entry.tag,
                "arrival": entry.arrival,
                "at": entry.at.isoformat(),
            }
        ).encode()
    except RecursionError as exc:
        raise ValueError("its headers are nested too deeply") from exc
    sizes = b"%d %d %s" % (len(head), len(entry.body), _digest(head, entry.body))
    line = b"%s %s %d %s\n" % (State.WRITTEN.value, _MAGIC, JOURNAL_VERSION, sizes)
    data = b"".join((line, head, entry.body))
    return data.ljust(-(-len(data) // _BLOCK) * _BLOCK, b"\0")


def unpack(data: bytes) -> tuple[State, Taken | None]:
    """Read what `pack` wrote, and its present state; a `FREE` file gives no entry.

    Raises:
        NewerEntry: a newer version wrote the file.
        ValueError: the file is cut short, changed, or not a journal entry.
    """
    if not data or data[:1] == State.FREE.value:
        return State.FREE, None
    try:
        line, _, rest = data.partition(b"\n")
        letter, magic, version, *sizes = line.split(b" ")
        if magic != _MAGIC:
            raise ValueError(f"its first line does not name it as {_MAGIC.decode()}")
        if int(version) > JOURNAL_VERSION:
            raise NewerEntry(int(version))
        of_head, of_body, digest = int(sizes[0]), int(sizes[1]), sizes[2]
        head, body = rest[:of_head], rest[of_head : of_head + of_body]
        if _digest(head, body) != digest:
            raise ValueError("it is cut short or changed")
        return State(letter), _read(json.loads(head), body)
    except (KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, IndexError) as exc:
        raise ValueError(f"it is not a journal entry: {type(exc).__name__}: {exc}") from exc


def _read(head: Mapping[str, Any], body: bytes) -> Taken:
    return Taken(
        body=body,
        headers=untagged(head["headers"]),
        properties=untagged(head["properties"]),
        delivery=untagged(head["delivery"]),
        content_type=head["content_type"],
        content_encoding=head["content_encoding"],
        worker=str(head["worker"]),
        tag=str(head["tag"]),
        at=datetime.fromisoformat(head["at"]),
        arrival=head["arrival"],
    )


def _digest(head: bytes, body: bytes) -> bytes:
    digest = hashlib.blake2b(head, digest_size=16)
    digest.update(body)
    return digest.hexdigest().encode()
