"""Slack's limits on a message's blocks, checked as Slack checks them. Knows no server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["MOST_TEXT", "faults_of"]

MOST_TEXT = 40_000
"""Characters after which Slack cuts a message's text."""

_BLOCKS, _HEADER, _SECTION, _FIELDS, _FIELD, _CONTEXT, _ACTIONS, _URL = 50, 150, 3000, 10, 2000, 10, 25, 3000


def faults_of(blocks: Sequence[Any]) -> list[str]:
    """What Slack would reject in these blocks, in words; empty when it would take them."""
    faults = [f"more than {_BLOCKS} blocks"] if len(blocks) > _BLOCKS else []
    for number, block in enumerate(blocks):
        faults += [f"block {number}: {fault}" for fault in _block(block)]
    return faults


def _block(block: Any) -> Iterator[str]:
    if not isinstance(block, Mapping):
        yield "not an object"
        return
    kind = block.get("type")
    if kind == "header":
        yield from _text(block.get("text"), _HEADER, kinds=("plain_text",))
    elif kind == "section":
        yield from _section(block)
    elif kind == "context":
        yield from _elements(block, _CONTEXT)
        for element in block.get("elements") or ():
            yield from _text(element, _SECTION)
    elif kind == "actions":
        yield from _elements(block, _ACTIONS)
        for element in block.get("elements") or ():
            yield from _text(element.get("text"), 75, kinds=("plain_text",))
            if len(element.get("url", "")) > _URL:
                yield "url too long"
    elif kind != "divider":
        yield f"unknown type {kind!r}"


def _section(block: Mapping[str, Any]) -> Iterator[str]:
    fields = block.get("fields")
    if "text" not in block and not fields:
        yield "neither text nor fields"
    if "text" in block:
        yield from _text(block["text"], _SECTION)
    if fields is not None:
        if len(fields) > _FIELDS:
            yield f"more than {_FIELDS} fields"
        for field in fields:
            yield from _text(field, _FIELD)


def _elements(block: Mapping[str, Any], most: int) -> Iterator[str]:
    if not 1 <= len(block.get("elements") or ()) <= most:
        yield f"not 1 to {most} elements"


def _text(text: Any, most: int, kinds: Sequence[str] = ("plain_text", "mrkdwn")) -> Iterator[str]:
    if not isinstance(text, Mapping) or text.get("type") not in kinds:
        yield f"text is not {' or '.join(kinds)}"
    elif not 1 <= len(str(text.get("text", ""))) <= most:
        yield f"text is not 1 to {most} characters"
