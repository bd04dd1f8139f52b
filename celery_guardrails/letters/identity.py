"""Ids of letters and of their deaths: UUIDs, made here or by `letter_id`, and nothing else.

Owns the test of what somebody else calls an id, and the ids of what has none that can be believed. It must not know
where ids are kept.
"""

from __future__ import annotations

import hashlib
import re
from uuid import UUID, uuid5

__all__ = ["is_letter_id", "own_id"]

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_OWN = UUID("f3b1f6a0-54a5-5f0e-9a53-6c1c5f0f2d3e")


def is_letter_id(text: str) -> bool:
    """Whether this is an id as guardrails writes them: a UUID in lower case."""
    return _UUID.fullmatch(text) is not None


def own_id(payload: bytes, kind: str = "") -> str:
    """The id of a letter whose own cannot be used: it follows from its bytes, so that the same one twice has one.

    Args:
        payload: the letter's JSON as it came.
        kind: why it has none of its own; two kinds never share an id.
    """
    return str(uuid5(_OWN, f"{kind}/{hashlib.sha256(payload).hexdigest()}"))
