"""A terminal's output as an SVG, by rich; nothing is fetched from elsewhere when it is shown."""

from __future__ import annotations

import re
from html import escape, unescape
from io import StringIO

from rich.console import Console
from rich.text import Text

__all__ = ["labels_of", "picture"]

COLUMNS = 100
_FORMAT = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>TITLE</title>
<desc>DESCRIPTION</desc>
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-family: system-ui, sans-serif; font-size: 18px; font-weight: bold }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
_ESCAPE = re.compile(r"\x1b\[[\d;]*m")
_LABEL = re.compile(r"^(?P<label>[A-Z][A-Za-z ]*?)(?: {2,}\S.*)?$", re.MULTILINE)
_HEADINGS = re.compile(r"^#(?: {2,}[A-Z][A-Za-z ]*)+$", re.MULTILINE)


def picture(command: str, output: str) -> str:
    """The SVG of a command and what it wrote.

    Args:
        command: what was typed.
        output: what was written, with the escapes that style it.
    """
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "dim"), (command, "bold")))
    for line in output.rstrip().splitlines():
        console.print(Text.from_ansi(line), soft_wrap=True)
    svg = console.export_svg(title="", code_format=_FORMAT, unique_id="terminal")
    described = svg.replace("TITLE", escape(f"What {command} shows"), 1)
    described = described.replace("DESCRIPTION", escape(_ESCAPE.sub("", output).rstrip()), 1)
    return "\n".join(line.rstrip() for line in described.splitlines()) + "\n"


def labels_of(output: str) -> set[str]:
    """What names the parts of an output, or of a picture of it: its headings, and the names before its values."""
    if described := re.search(r"<desc>(.*?)</desc>", output, re.DOTALL):
        output = unescape(described[1])
    plain = _ESCAPE.sub("", output)
    headings = [re.split(r" {2,}", line) for line in _HEADINGS.findall(plain)]
    return {found["label"] for found in _LABEL.finditer(plain)} | {name for names in headings for name in names}
