"""What the demo shows: a timeline with elapsed seconds, the commands a person would type, and what was checked.

Owns the layout on the terminal. It must not know what is shown.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

__all__ = ["Check", "Timeline"]

_MARGIN = 9
_WIDTH = 100


@dataclass(frozen=True)
class Check:
    """One promise: whether it held, and what was found."""

    held: bool
    claim: str
    found: str


class Timeline:
    """Prints the story as it goes, from the instant of its creation."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.console.width = min(_WIDTH, self.console.width) if self.console.is_terminal else _WIDTH
        self.checks: list[Check] = []
        self._started = time.monotonic()
        self._spaced = False

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def width(self) -> int:
        """How many columns something shown below the timeline may take."""
        return self.console.width - _MARGIN

    def act(self, title: str) -> None:
        """A new part of the story."""
        self.space()
        self.console.rule(f"[bold]{escape(title)}", align="left", style="blue")
        self._spaced = True

    def say(self, words: str, style: str = "") -> None:
        """One line of the story."""
        self._line(Text(words, style=style))

    def command(self, line: str, remark: str = "") -> None:
        """A command that is being run, as a person would type it."""
        if self.checks:
            self.space()
        self._line(Text.assemble(("$ ", "bold green"), (line, "bold"), (f"   {remark}" if remark else "", "dim")))

    def space(self) -> None:
        """An empty line, where there is none yet."""
        if not self._spaced:
            self.console.print()
        self._spaced = True

    def show(self, what: RenderableType) -> None:
        """Something below the last line: a command's output, a message."""
        self.console.print(Padding(what, (0, 0, 0, _MARGIN), expand=False))
        self._spaced = False

    def check(self, held: bool, claim: str, found: str) -> bool:
        """Say whether a promise held, and keep that for the end."""
        self.checks.append(Check(held, claim, found))
        mark = ("✔ ", "bold green") if held else ("✘ ", "bold red")
        self._line(Text.assemble(mark, f"{claim}: ", (found, "dim" if held else "red")))
        return held

    def verdict(self, trouble: str = "") -> bool:
        """Say at the end whether everything held."""
        broken = [check for check in self.checks if not check.held]
        good = not broken and not trouble and bool(self.checks)
        self.space()
        self.console.rule(style="green" if good else "red")
        seconds = f"{self.elapsed:.0f} seconds"
        if good:
            self.console.print(f"[bold green]✔ all {len(self.checks)} checks held[/], in {seconds}")
        else:
            self.console.print(f"[bold red]✘ the demo failed[/], after {seconds}")
            for check in broken:
                self.console.print(f"  [red]✘[/] {escape(check.claim)}: {escape(check.found)}")
            if trouble:
                self.console.print(f"  [red]✘[/] {escape(trouble)}")
        return good

    def _line(self, line: Text) -> None:
        stamp = Text(f"{self.elapsed:5.1f}s  ".rjust(_MARGIN), style="cyan")
        lines = line.wrap(self.console, self.width)
        for number, part in enumerate(lines):
            part.rstrip()
            self.console.print(Text.assemble(stamp if number == 0 else " " * _MARGIN, part))
        self._spaced = False
