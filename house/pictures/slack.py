"""A Slack message as an SVG, drawn from the layout blocks that Slack was sent."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from html import escape, unescape
from typing import Any

__all__ = ["labels_in", "labels_of", "picture"]

WIDTH, LEFT, TOP, LINE = 780, 68, 54, 22
_BROAD, _NARROW, _MONO = 90, 40, 84
"""Characters of a line, of one of two columns, and of a line that is a command."""
_MARKED = re.compile(r"\*(?P<bold>[^*\n]+)\*|`(?P<code>[^`\n]+)`")
_STYLE = """
.card { fill: #ffffff; stroke: #dddddd }
text { font-family: Lato, system-ui, sans-serif; font-size: 15px; fill: #1d1c1d }
.name { font-weight: 900 }
.header { font-size: 18px; font-weight: 900 }
.label, .bold { font-weight: 700 }
.code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 12.5px; fill: #c01343 }
.small { font-size: 12.5px; fill: #616061 }
.app { font-size: 10px; fill: #616061 }
"""


def picture(blocks: Sequence[Mapping[str, Any]], channel: str) -> str:
    """The SVG of a message.

    Args:
        blocks: header, sections with a text or fields, contexts.
        channel: where it was posted.
    """
    lines: list[str] = []
    y = TOP
    for block in blocks:
        drawn, y = _block(block, y)
        lines += [*drawn, ""]
        y += 10
    height = y + 6
    return f"""<svg viewBox="0 0 {WIDTH} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>One Slack message in {escape(channel)} about all dead letters of a task</title>
<style>{_STYLE}</style>
<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" />
<rect x="18" y="16" width="36" height="36" rx="6" fill="#4a154b" />
<text x="36" y="40" text-anchor="middle" style="fill: #ffffff; font-weight: 900">cg</text>
<text class="name" x="{LEFT}" y="32">celery-guardrails <tspan class="app" dx="4">APP in {escape(channel)}</tspan></text>
{chr(10).join(line for line in lines if line)}
</svg>
"""


def labels_of(blocks: Sequence[Mapping[str, Any]]) -> list[str]:
    """What names the parts of a message, in order: the bold line above each value, without counts."""
    texts = [text for block in blocks for text in _texts(block)]
    return [_uncounted(found[1]) for text in texts if (found := re.match(r"\*([^*\n]+)\*\n", text))]


def labels_in(svg: str) -> list[str]:
    """The same of a picture."""
    return [_uncounted(unescape(label)) for label in re.findall(r'<tspan class="label">(.*?)</tspan>', svg)]


def _uncounted(label: str) -> str:
    return re.sub(r" \(\d.*\)", "", label)


def _texts(block: Mapping[str, Any]) -> Iterator[str]:
    for part in (block.get("text"), *block.get("fields", ()), *block.get("elements", ())):
        if part is not None:
            yield part["text"]


def _block(block: Mapping[str, Any], y: int) -> tuple[list[str], int]:
    """A block's lines, and where the next one begins."""
    lines: list[str] = []
    if block["type"] == "header":
        return [_text(LEFT, y + 18, _plain(block["text"]["text"]), "header")], y + 26
    if block["type"] == "context":
        for element in block["elements"]:
            lines.append(_text(LEFT, y + 14, _plain(element["text"]), "small"))
            y += 18
        return lines, y
    if "text" in block:
        drawn, y = _paragraphs(block["text"]["text"], LEFT, y, _BROAD)
        lines += drawn
    fields = block.get("fields", ())
    for left in range(0, len(fields), 2):
        columns = [
            _paragraphs(field["text"], LEFT + 340 * number, y, _NARROW)
            for number, field in enumerate(fields[left : left + 2])
        ]
        lines += [line for drawn, _ in columns for line in drawn]
        y = max(below for _, below in columns) + 6
    return lines, y


def _paragraphs(text: str, x: int, y: int, columns: int) -> tuple[list[str], int]:
    lines: list[str] = []
    for number, line in enumerate(text.split("\n")):
        label = number == 0 and "\n" in text and re.fullmatch(r"\*[^*]+\*", line)
        for part in [line] if "`" in line or label else textwrap.wrap(line, columns):
            lines.append(f'<text x="{x}" y="{y + 16}">{_marked(part, "label" if label else "bold")}</text>')
            y += LINE
    return lines, y


def _marked(text: str, bold: str) -> str:
    shown, end = "", 0
    for match in _MARKED.finditer(text):
        shown += escape(_plain(text[end : match.start()]))
        style, inner = (bold, match["bold"]) if match["bold"] else ("code", match["code"])
        shown += f'<tspan class="{style}">{escape(_plain(inner))}</tspan>'
        end = match.end()
    return shown + escape(_plain(text[end:]))


def _text(x: int, y: int, text: str, style: str) -> str:
    return f'<text class="{style}" x="{x}" y="{y}">{escape(text)}</text>'


def _plain(text: str) -> str:
    return unescape(text.replace("\u2060", ""))
