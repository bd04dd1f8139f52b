"""What looks at foreign text takes time in proportion to it, whatever the text is made of.

Each function reads 20,000 characters in one, and the same in ten pieces. The time is this process's own, so that a busy
machine changes little; a quadratic step would take ten times as long for the whole, in each of three tries.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone

import pytest

from celery_guardrails.command import query_term, shell_quote
from celery_guardrails.errors import QueryError
from celery_guardrails.letters.preview import preview
from celery_guardrails.letters.record import Preview
from celery_guardrails.letters.sender_text import SenderText
from celery_guardrails.policy.describe import describe
from celery_guardrails.policy.fingerprint import normalised
from celery_guardrails.policy.retry_after import parse_retry_after
from celery_guardrails.printable import lines, one_line
from celery_guardrails.recovery.query import parse_query
from celery_guardrails.redaction import Redactor, is_denied
from celery_guardrails.store.column import cut
from celery_guardrails.text import escape

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)
WHOLE, PIECES, TRIES = 20_000, 10, 3
UNITS = (
    "0", "1 ", "a", " ", "\n", "'", '"', "`", "{", "[", "(", "<", "{'a':", "a@", "://", "http://a:", "-", ".", "=",
    "a=", "a = ", "eyJ.", "%", "\\", '\\"', "a.", "0:", "0.", "0-", "0x", "A1 ", "-----BEGIN A-----", "password=",
    "password: ", "--password ", "token ", "Bearer ", "4111 ", "DE89 ", "_", "\u00e9", "...", "sk-", "xoxb-", 'x"y":',
    "<a>", "user:pass@", "https://hooks.slack.com/", "1,", "a'", "!", "\0", "\ud800", "\U0001f4a3",
)  # fmt: skip
REDACTOR = Redactor(patterns=("[0-9]{9}-x",))


def _query(text: str) -> None:
    for each in (text, f'text:"{text}', f"task:{text}"):
        with suppress(QueryError):
            parse_query(each, NOW)


def _sender(text: str) -> None:
    SenderText(text, text + "...").over(Preview(), [text, text[:1500] + "x"], 4_000)


READERS: dict[str, Callable[[str], object]] = {
    "describe": lambda text: describe(ValueError(text), NOW),
    "fingerprint": normalised,
    "redactor": REDACTOR.text,
    "mask": lambda text: REDACTOR.mask({"a": text, text: ["password", text]}),
    "preview": lambda text: preview((text,), {"a": text}, ["a"], REDACTOR),
    "what a sender shows": _sender,
    "query": _query,
    "quoting": lambda text: (shell_quote(text), query_term("task", text)),
    "printable": lambda text: (one_line(text), lines(text), escape(text), cut(text)),
    "names": is_denied,
    "retry after": lambda text: parse_retry_after(text, NOW),
}


@pytest.mark.parametrize("name", READERS)
def test_twice_the_text_takes_twice_the_time(name: str) -> None:
    seen = []
    for _ in range(TRIES):
        whole, pieces = _measured(READERS[name])
        seen.append(f"{whole:.2f} s for the whole, {pieces:.2f} s in {PIECES} pieces")
        if whole < 5 * pieces + 0.5:
            return
    pytest.fail("; ".join(seen))


def _measured(read: Callable[[str], object]) -> tuple[float, float]:
    whole = pieces = 0.0
    for unit in UNITS:
        text = (unit * (WHOLE // len(unit) + 1))[:WHOLE]
        whole += _taken(read, text, 1)
        pieces += _taken(read, text[: WHOLE // PIECES], PIECES)
    return whole, pieces


def _taken(read: Callable[[str], object], text: str, times: int) -> float:
    gc.disable()  # in a process that has run many tests it takes longer than what is measured
    try:
        began = time.process_time()
        for _ in range(times):
            re.purge()  # a pattern that is made of the text is made each time
            read(text)
        return time.process_time() - began
    finally:
        gc.enable()
