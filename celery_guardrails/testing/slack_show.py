"""A Slack message as a person would see it, in a terminal. Knows no server."""
# on its own: it draws a message and must not know the server that received it

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["shown"]

_MARKUP = re.compile(r"[*`]|\u2060")


def shown(channel: str, text: str, blocks: Sequence[Mapping[str, Any]], what: str = "posted") -> str:
    """The message in a frame, with `what` happened to it above; `text` is shown when it has no blocks."""
    lines = [line for block in blocks for line in _lines(block)] or _plain(text).splitlines()
    return "\n".join([f"┌─ Slack {channel}: message {what}", *(f"│ {line}" for line in lines), "└─"])


def _lines(block: Mapping[str, Any]) -> Iterator[str]:
    if "text" in block:
        yield from _plain(block["text"]["text"]).splitlines()
    for field in block.get("fields", ()):
        yield ": ".join(_plain(field["text"]).split("\n", 1))
    for element in block.get("elements", ()):
        button = element["type"] == "button"
        yield f"[{element['text']['text']}] {element.get('url', '')}" if button else _plain(element["text"])


def _plain(text: str) -> str:
    text = _MARKUP.sub("", text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
