"""An alert as it stands in Slack: what `alerts/render.py` makes of twelve dead letters, drawn.

Nothing of the message is written here but the figures that it is made of.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from canvas import Canvas

from celery_guardrails.alerts.event import AlertEvent, LettersChanged
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.alerts.render import Style, render

__all__ = ["drawn"]

_FIRST = datetime(2026, 11, 30, 14, 2, 11, tzinfo=timezone.utc)
_WIDTH, _LEFT, _LINE = 760, 70, 21
_ERRORS = (
    ("TimeoutError", "the mail server does not answer", "v1:a", "timeout", 9),
    ("smtplib.SMTPServerDisconnected", "Connection unexpectedly closed", "v1:b", "connection", 3),
)
_MARKUP = re.compile(r"`([^`]*)`|\*([^*]+)\*")


def drawn() -> str:
    """The picture."""
    canvas = Canvas(_WIDTH, "A Slack message: send_receipt, 12 dead letters, since when, who is affected, what to type")
    canvas.box(16, 18, 40, 40, "chip", "edge")
    canvas.text(36, 45, "CG", "bad", 15, bold=True, anchor="middle")
    canvas.text(_LEFT, 33, "celery-guardrails", bold=True, size=15)
    canvas.box(_LEFT + 148, 21, 34, 15, radius=3)
    canvas.text(_LEFT + 165, 32, "APP", "pale", 9.5, bold=True, anchor="middle")
    canvas.text(_LEFT + 192, 33, f"{_FIRST + timedelta(seconds=30):%H:%M}  (edited)", "pale", 12)
    y = 62.0
    message = render(_group(), _FIRST + timedelta(minutes=9), Style("shop"))
    for block in message.blocks:
        y = _block(canvas, block, y) + 8
    canvas.height = round(y)
    return canvas.svg()


def _group() -> AlertGroup:
    events = [_event(number, *error[:4]) for number, error in enumerate(e for e in _ERRORS for _ in range(e[4]))]
    group = AlertGroup.idle(events[0])
    for event in events:
        group = group.add(event, event.at)
    return replace(group, letters=LettersChanged(dead=len(events)))


def _event(number: int, error: str, message: str, fingerprint: str, category: str) -> AlertEvent:
    return AlertEvent(
        ref_id=f"d{number}", environment="production", task="shop.send_receipt", error=error, message=message,
        fingerprint=fingerprint, reason="attempts_exhausted", category=category, owner="growth", queue="celery",
        runbook="https://wiki.example.com/mail", affected={"customer_id": str(42 + number)},
        letter_id=f"{0x54E991BA + 977 * number:08x}-9315-59e4-8d75-ff8aa358d64f",
        correlation={"order_id": str(4711 + number)}, at=_FIRST + timedelta(seconds=37 * number),
    )  # fmt: skip


def _block(canvas: Canvas, block: Mapping[str, Any], y: float) -> float:
    """Draw one block of the message from `y` on; gives where the next one begins."""
    if block["type"] == "header":
        canvas.text(_LEFT, y + 16, block["text"]["text"], size=18, bold=True)
        return y + 24
    if "fields" in block:
        return _fields(canvas, block["fields"], y)
    if block["type"] == "context":
        for element in block["elements"]:
            canvas.text(_LEFT, y + 14, element["text"], "pale", 12)
            y += 18
        return y
    for line in block["text"]["text"].splitlines():
        for piece in _wrapped(line):
            _line(canvas, piece, _LEFT, y + 16)
            y += _LINE
    return y


def _fields(canvas: Canvas, fields: list[Mapping[str, Any]], y: float) -> float:
    for number, field in enumerate(fields):
        name, value = field["text"].split("\n")
        x, top = _LEFT + (number % 2) * 340, y + (number // 2) * 44
        canvas.text(x, top + 15, name.strip("*"), bold=True)
        canvas.text(x, top + 34, value)
    return y + (len(fields) + 1) // 2 * 44


def _wrapped(line: str) -> Iterator[str]:
    """A line in pieces that fit; a line of code is cut into lines of code."""
    span = re.fullmatch(r"`(.+)`", line)
    width = 90 if span else 92
    for piece in textwrap.wrap(span[1] if span else line, width, break_on_hyphens=False) or [""]:
        yield f"`{piece}`" if span else piece


def _line(canvas: Canvas, line: str, x: float, y: float) -> None:
    """A line with Slack's `code` and *bold* in it."""
    position = 0
    for found in _MARKUP.finditer(line):
        x = _run(canvas, line[position : found.start()], x, y)
        if found[1] is not None:
            width = 7.25 * len(found[1]) + 8
            canvas.box(x, y - 14, width, 18.5, radius=3)
            canvas.text(x + 4, y, found[1], "code", 12, mono=True)
            x += width
        else:
            canvas.text(x, y, found[2], bold=True)
            x += 8.3 * len(found[2])
        position = found.end()
    _run(canvas, line[position:], x, y)


def _run(canvas: Canvas, words: str, x: float, y: float) -> float:
    if words:
        canvas.text(x, y, _unescaped(words))
    return x + 6.9 * len(words)


def _unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
