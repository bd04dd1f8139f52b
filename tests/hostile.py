"""Letters that look like letters in every place but one to three, where somebody has put what stops programs.

NUL, half characters, long and incompressible text, the calendar's ends, numbers that are none, nesting. `fuzz.draw`
draws them, as `hostile_letters`.
"""

from __future__ import annotations

import functools
import json
import math
import random
from typing import Any

from hypothesis import strategies as st

from celery_guardrails.letters.codec import encode
from tests.unit.letters.test_codec import letter

__all__ = ["astral", "letters"]

_TEXTS = (
    "id", "task", "task_id", "root_id", "parent_id", "group_id", "explanation", "environment", "worker", "queue",
    "exchange", "routing_key", "version", "owner", "runbook", "severity", "dead_letter_id",
)  # fmt: skip
_FAILURE = ("type", "message", "fingerprint", "traceback")
_CHARACTERS = "a\u00e4\U0001f4a3\0\ud800"
_ODD_TEXTS = (
    "\0", "a\0b", "\ud800", "x\udfff", "\u202e\x1b[31m", "", " ", "\n" * 50, "\"';$(id)`", "<!channel>", "*/,:!%~",
)  # fmt: skip
_DATES = (
    "2026-11-01T12:00:00", "2026-11-01", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
    "9999-12-31T23:59:59", "2500-01-01T00:00:00Z", "1950-01-01T00:00:00Z", 0, -1e12, 1e18, math.nan,
)  # fmt: skip
_NUMBERS = (math.nan, math.inf, -math.inf, 10**30, -(10**30), 1e308, -1, 2**31, 2**63, 0.5, True)


def astral(number: int, size: int) -> str:
    """Text that takes four bytes a character, and that nothing compresses."""
    chosen = random.Random(number)
    return "".join(chr(chosen.randrange(0x20000, 0x2A6DF)) for _ in range(size))


def letters() -> st.SearchStrategy[bytes]:
    """A good letter, changed."""
    good: dict[str, Any] = json.loads(encode(letter(correlation={"order": "7"}, affected={"customer": "ada"})))
    changed = st.lists(_place(), min_size=1, max_size=3).map(
        lambda places: functools.reduce(lambda data, each: _replaced(data, *each), places, good)
    )
    return st.builds(_written, changed, st.booleans())


def _place() -> st.SearchStrategy[tuple[tuple[str, ...], Any]]:
    text = st.one_of(
        st.sampled_from(_ODD_TEXTS),
        st.builds(lambda char, size: char * size, st.sampled_from(_CHARACTERS), st.sampled_from([65, 101, 401, 9_000])),
        st.builds(astral, st.integers(0, 9), st.sampled_from([300, 2_000])),
    )
    date, number = st.sampled_from(_DATES), st.sampled_from(_NUMBERS)
    nests = st.builds(_nested, st.sampled_from([20, 63, 65, 300, 900, 930, 960, 990]), st.booleans())
    attempt = st.fixed_dictionaries(
        {"number": number, "ended_at": date, "error": text, "message": text},
        optional={"started_at": date, "delay": number, "fingerprint": text},
    )
    few, many = st.lists(attempt, max_size=3), st.builds(lambda one: [one] * 2_000, attempt)

    def at(value: st.SearchStrategy[Any], *paths: tuple[str, ...]) -> st.SearchStrategy[Any]:
        return st.tuples(st.sampled_from(paths), value)

    return st.one_of(
        at(text, *((name,) for name in _TEXTS)),
        at(text, *(("failure", name) for name in _FAILURE), ("preview", "args"), ("preview", "kwargs")),
        at(date, ("died_at",), ("first_failed_at",), ("published_at",)),
        at(number, ("generation",), ("crashes",), ("priority",)),
        at(st.dictionaries(text, text, max_size=3), ("affected",), ("correlation",)),
        at(nests, ("policy",), ("message", "headers"), ("message", "properties"), ("extra",)),
        at(st.dictionaries(text, number, max_size=2), ("policy",)),
        at(st.one_of(few, many), ("attempts",)),
    )


def _nested(levels: int, is_list: bool) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = [value] if is_list else {"a": value}
    return {"a": value}


def _replaced(data: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**data, path[0]: value}
    return {**data, path[0]: {**data.get(path[0], {}), path[1]: value}}


def _written(data: dict[str, Any], escaped: bool) -> bytes:
    return json.dumps(data, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
