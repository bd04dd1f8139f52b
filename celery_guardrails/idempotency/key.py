"""Which work a message is, for the ledger: the key, and a digest of the arguments.

Owns how a key is made: a text that somebody gave, or arguments by name. Equal arguments give equal digests in every
process and version of Python: they are written as JSON with sorted keys. It must not know how a task is called.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from celery_guardrails.idempotency.ledger import Key
from celery_guardrails.letters.header import LONGEST_KEY

__all__ = ["UnusableKey", "digest_of", "key_of_arguments", "key_of_text"]

_DEEPEST = 50


class UnusableKey(Exception):
    """The key of some work cannot be made; the text says why."""


def key_of_text(environment: str, scope: str, text: object) -> Key:
    """The key for a text that a caller or the policy's function gave.

    Raises:
        UnusableKey: it is no text, empty, or longer than 512 bytes.
    """
    if not isinstance(text, str):
        raise UnusableKey(f"the idempotency key is a {type(text).__name__}, not text")
    if not text:
        raise UnusableKey("the idempotency key is empty")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UnusableKey("the idempotency key has a lone surrogate, which no database can hold") from None
    if size > LONGEST_KEY:
        raise UnusableKey(f"the idempotency key has {size} bytes, {LONGEST_KEY} is the most")
    return Key(environment, scope, text, _digest("key", environment, scope, text))


def key_of_arguments(environment: str, scope: str, values: Mapping[str, Any]) -> Key:
    """The key for the values of some arguments. Its text shows their names and a digest, no value.

    Raises:
        UnusableKey: a value is of a kind that has no lasting form.
    """
    digest = digest_of(values)
    text = f"{', '.join(values)}: {digest[:16]}"
    return Key(environment, scope, text, _digest("arguments", environment, scope, digest))


def digest_of(value: Any) -> str:
    """A digest of arguments: the same for equal values.

    Numbers, text, bytes, dates, `Decimal`, `UUID`, enums, and lists, tuples, sets and dicts of these have one. A list
    and a tuple are equal, because JSON makes a list of both.

    Raises:
        UnusableKey: a value is of another kind, or is nested too deep.
    """
    try:
        text = json.dumps(_plain(value, 0), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as exc:
        raise UnusableKey(f"the arguments cannot be compared: {exc}") from exc
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(*parts: str) -> str:
    text = json.dumps(parts, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any, depth: int) -> Any:
    """The value in JSON's kinds; whatever is no text, number, list or dict of texts is marked with its kind."""
    if depth > _DEEPEST:
        raise UnusableKey(f"the arguments are nested deeper than {_DEEPEST}")
    if value is None or (isinstance(value, (bool, str)) and type(value) in (bool, str)):
        return value
    if type(value) is int:
        return value
    if type(value) is float:
        return {"float": value.hex()} if not value.is_integer() else int(value)
    if isinstance(value, Enum):
        return _plain(value.value, depth + 1)
    if isinstance(value, Mapping):
        pairs = [[_plain(key, depth + 1), _plain(each, depth + 1)] for key, each in value.items()]
        if all(isinstance(key, str) for key, _ in pairs):
            return {"dict": dict(pairs)}
        return {"pairs": sorted(pairs, key=json.dumps)}
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((_plain(each, depth + 1) for each in value), key=json.dumps)}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview)):
        return [_plain(each, depth + 1) for each in value]
    return _marked(value)


def _marked(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, (datetime, date, time)):
        return {type(value).__name__: value.isoformat()}
    if isinstance(value, timedelta):
        return {"timedelta": value.total_seconds()}
    if isinstance(value, (Decimal, UUID)):
        return {type(value).__name__: str(value)}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"a {type(value).__name__} has no lasting form; name the arguments that tell works apart")
