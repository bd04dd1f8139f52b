"""A Slack message as a person would see it, in a terminal. It must not know where the message comes from."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import ROUNDED
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

__all__ = ["slack_message"]

_INVISIBLE = "\u2060"
_MARKED = re.compile(r"\*(?P<bold>[^*\n]+)\*|`(?P<code>[^`\n]+)`")


def slack_message(
    blocks: Sequence[Mapping[str, Any]], channel: str, remark: str, width: int, replies: Sequence[str] = ()
) -> Panel:
    """The message in a frame.

    Args:
        blocks: Slack's layout blocks: header, section, context.
        channel: the channel's name, shown above.
        remark: what is to be said below the frame, such as how often it was edited.
        width: of the frame, in columns.
        replies: the texts in its thread, oldest first.
    """
    parts: list[RenderableType] = []
    for block in blocks:
        parts += [*_block(block), Text()]
    for reply in replies:
        parts += [Text.assemble(("in the thread: ", "bold magenta"), _marked(reply)), Text()]
    title = Text(f" Slack  {channel} ", style="bold magenta")
    return Panel(
        Group(*parts[:-1]), title=title, title_align="left", subtitle=Text(f" {remark} ", style="dim"),
        subtitle_align="right", box=ROUNDED, border_style="magenta", width=width, padding=(1, 2),
    )  # fmt: skip


def _block(block: Mapping[str, Any]) -> Iterator[RenderableType]:
    if block["type"] == "header":
        yield Text(_plain(block["text"]["text"]), style="bold reverse")
    elif block["type"] == "context":
        for element in block["elements"]:
            yield _marked(element["text"], "dim")
    else:
        if "text" in block:
            yield _marked(block["text"]["text"])
        if "fields" in block:
            yield _fields(block["fields"])


def _fields(fields: Sequence[Mapping[str, Any]]) -> Table:
    """Two a row, each with its name above its value, as Slack does."""
    table = Table.grid(expand=True, padding=(0, 2, 0, 0))
    table.add_column(ratio=1)
    table.add_column(ratio=1)
    shown = [_marked(field["text"]) for field in fields]
    for left in range(0, len(shown), 2):
        table.add_row(*shown[left : left + 2])
    return table


def _marked(text: str, style: str = "") -> Text:
    shown, end = Text(style=style), 0
    for match in _MARKED.finditer(text):
        shown.append(_plain(text[end : match.start()]))
        shown.append(_plain(match["bold"] or match["code"]), style="bold" if match["bold"] else "yellow")
        end = match.end()
    shown.append(_plain(text[end:]))
    return shown


def _plain(text: str) -> str:
    return html.unescape(text.replace(_INVISIBLE, ""))
