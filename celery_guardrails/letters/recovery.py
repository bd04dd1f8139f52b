"""The report that requeued work has succeeded, as data, and as bytes and back.

Owns the wire form: JSON with `v`, `dead_letter_id`, `generation`, `at`, `task` and `claim_token`; a report of an older
worker lacks the last two. It must not know how a report travels, nor whether it is believed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from celery_guardrails.letters.header import Header
from celery_guardrails.letters.record import SCHEMA_VERSION, in_utc

__all__ = ["Recovery", "decode_recovery", "encode_recovery"]

_HIGHEST = 2**31


@dataclass(frozen=True, slots=True)
class Recovery:
    """A worker's report that work that was put back has succeeded.

    `at` is when it succeeded (aware). `task` is the name by which it was sent, `None` if the report does not say it.
    `claim_token` is the secret of the requeue, `None` if the requeue is older than tokens.
    """

    dead_letter_id: str
    generation: int
    at: datetime
    task: str | None = None
    claim_token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, header: Header, task: str, at: datetime) -> Recovery | None:
        """The report for a message with this header; `None` if the message was not put back."""
        if header.dead_letter_id is None:
            return None
        return cls(header.dead_letter_id, header.generation, at, task, header.claim_token)


def encode_recovery(recovery: Recovery) -> bytes:
    """The report as it travels."""
    body: dict[str, Any] = {
        "v": SCHEMA_VERSION,
        "dead_letter_id": recovery.dead_letter_id,
        "generation": recovery.generation,
        "at": recovery.at.isoformat(),
        "task": recovery.task,
        "claim_token": recovery.claim_token,
    }
    return json.dumps({name: value for name, value in body.items() if value is not None}).encode()


def decode_recovery(body: bytes) -> Recovery:
    """Read a report.

    Raises:
        ValueError: it is not a report.
    """
    try:
        raw = json.loads(body)
        at = datetime.fromisoformat(raw["at"])
        generation = raw["generation"]
        texts = (raw["dead_letter_id"], raw.get("task"), raw.get("claim_token"))
    except (KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc
    if at.tzinfo is None or not isinstance(texts[0], str):
        raise ValueError("wrong field types")
    if not isinstance(generation, int) or isinstance(generation, bool) or not 0 <= generation < _HIGHEST:
        raise ValueError("no generation")
    letter_id, task, token = (text if isinstance(text, str) else None for text in texts)
    return Recovery(letter_id or "", generation, in_utc(at), task, token)
