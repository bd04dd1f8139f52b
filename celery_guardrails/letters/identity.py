"""Ids of letters and of their deaths: always UUIDs, made here or by `letter_id`.

Owns the check of an id that somebody else has written, and makes an id for a letter whose id cannot be believed. It
must not know where ids are kept.
"""

from __future__ import annotations

import hashlib
import re
from uuid import UUID, uuid5

__all__ = ["is_letter_id", "own_id"]

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_OWN = UUID("f3b1f6a0-54a5-5f0e-9a53-6c1c5f0f2d3e")


def is_letter_id(text: str) -> bool:
    """Whether this text is an id in guardrails' form: a UUID in lower case."""
    return _UUID.fullmatch(text) is not None


def own_id(payload: bytes, kind: str = "") -> str:
    """A new id for a letter whose own id cannot be used; computed from its bytes, so the same letter gets the same id.

    Args:
        payload: the letter's JSON as it came.
        kind: why its own id cannot be used; two kinds never give the same id.
    """
    return str(uuid5(_OWN, f"{kind}/{hashlib.sha256(payload).hexdigest()}"))
