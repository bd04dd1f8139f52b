"""An SVG, drawn piece by piece, readable on a light page and on a dark one.

Owns the file's form and its colours, by class; a reader's dark mode swaps them. It must not know what is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

__all__ = ["Canvas"]

_SANS = "-apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
_MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_COLOURS = {  # class: property, light, dark
    "paper": ("fill", "#ffffff", "#1f2124"),
    "ink": ("fill", "#1d1c1d", "#dcddde"),
    "pale": ("fill", "#616061", "#a3a6ab"),
    "link": ("fill", "#1264a3", "#4d9fdb"),
    "code": ("fill", "#c01343", "#e8912d"),
    "good": ("fill", "#15753c", "#57c98a"),
    "bad": ("fill", "#b3261e", "#f2766b"),
    "chip": ("fill", "#f1f1f2", "#2b2d31"),
    "edge": ("stroke", "#c9cacc", "#4a4d52"),
    "arrow": ("stroke", "#616061", "#a3a6ab"),
    "tip": ("fill", "#616061", "#a3a6ab"),
    "good-edge": ("stroke", "#15753c", "#57c98a"),
    "bad-edge": ("stroke", "#b3261e", "#f2766b"),
}


@dataclass
class Canvas:
    """A picture of a fixed width; its height is what `height` says when it is written.

    Args:
        width: in pixels.
        title: what it shows, for those who cannot see it.
    """

    width: int
    title: str
    height: int = 0
    _pieces: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, words: str, colour: str = "ink", size: float = 14, *,
        bold: bool = False, mono: bool = False, anchor: str = "start",
    ) -> None:  # fmt: skip
        """One line of text; `y` is its baseline."""
        weight = ' font-weight="700"' if bold else ""
        family = "mono" if mono else "sans"
        self._pieces.append(
            f'<text x="{x:g}" y="{y:g}" class="{family} {colour}" font-size="{size:g}"{weight} '
            f'text-anchor="{anchor}" xml:space="preserve">{escape(words)}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, fill: str = "chip", edge: str = "edge",
            radius: float = 6, *, dashed: bool = False) -> None:  # fmt: skip
        """A rectangle with round corners."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._pieces.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
            f'class="{fill} {edge}"{dash}/>'
        )

    def arrow(self, *points: tuple[float, float], edge: str = "arrow") -> None:
        """A line through these points, with a tip at its end."""
        path = " ".join(f"{'M' if not number else 'L'}{x:g} {y:g}" for number, (x, y) in enumerate(points))
        self._pieces.append(f'<path d="{path}" fill="none" class="{edge}" stroke-width="1.6"/>')
        (x0, y0), (x1, y1) = points[-2:]
        length = max(abs(x1 - x0), abs(y1 - y0)) or 1
        dx, dy = (x1 - x0) / length, (y1 - y0) / length
        wings = " ".join(f"{x1 - 9 * dx - side * dy:g},{y1 - 9 * dy + side * dx:g}" for side in (4.5, -4.5))
        fill = {"good-edge": "good", "bad-edge": "bad"}.get(edge, "tip")
        self._pieces.append(f'<polygon points="{x1:g},{y1:g} {wings}" class="{fill}"/>')

    def svg(self) -> str:
        """The whole file."""
        light = "".join(f".{name}{{{what}:{day}}}" for name, (what, day, _) in _COLOURS.items())
        dark = "".join(f".{name}{{{what}:{night}}}" for name, (what, _, night) in _COLOURS.items())
        style = f".sans{{font-family:{_SANS}}}.mono{{font-family:{_MONO}}}{light}"
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={quoteattr(self.title)}>'
        page = f'<rect width="{self.width}" height="{self.height}" rx="8" class="paper"/>'
        night = f"@media (prefers-color-scheme:dark){{{dark}}}"
        lines = [
            head,
            f"<title>{escape(self.title)}</title>",
            f"<style>{style}{night}</style>",
            page,
            *self._pieces,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"
