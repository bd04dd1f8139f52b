"""`dlq show` in a terminal: the output that `dead_letters.md` shows, drawn.

It must not know what a letter holds; the page has it from the command itself.
"""

from __future__ import annotations

import re
from pathlib import Path

from canvas import Canvas

__all__ = ["drawn"]

_PAGE = Path(__file__).parent.parent / "dead_letters.md"
_WIDTH, _LEFT, _LINE = 760, 20, 18
_TITLES = ("Attempts", "Traceback", "Next")


def drawn() -> str:
    """The picture."""
    (output,) = re.findall(r"dlq show \w+\n```\n\n```text\n(.*?)```", _PAGE.read_text("utf-8"), re.DOTALL)
    lines = ["$ celery -A shop guardrails dlq show 54e991ba", "", *output.rstrip().splitlines()]
    canvas = Canvas(_WIDTH, "A terminal: dlq show, with the error, each attempt, the traceback and what to type next")
    canvas.height = 58 + _LINE * len(lines)
    canvas.box(0.5, 0.5, _WIDTH - 1, canvas.height - 1, "paper", radius=8)
    for number, colour in enumerate(("bad", "code", "good")):
        canvas.box(_LEFT + 18 * number, 14, 11, 11, colour, "edge", 5.5)
    for number, line in enumerate(lines):
        bold = line.startswith("$") or number == 2 or line.strip() in _TITLES
        colour = "bad" if line.startswith("TimeoutError") else "ink"
        canvas.text(_LEFT, 52 + _LINE * number, line, colour, 12.5, bold=bold, mono=True)
    return canvas.svg()
