"""The fenced blocks of the documentation, as Markdown's own parser finds them, with what a comment above says of them.

Owns which pages there are, and what a block is. What becomes of a block is not its business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from markdown_it import MarkdownIt

from tests.harness import ROOT

__all__ = ["PAGES", "REMARKS", "Block", "WrongBlock", "blocks_of", "inline_code_of", "text_of"]

REMARKS = frozenset({"project", "raises", "fragment"})
"""What a comment above a block may say of it; docs/README.md has their meaning."""

# Sphinx's own, whose content is no Markdown; that of all others (notes, tabs, ...) may hold blocks
_OPAQUE = frozenset({"toctree", "click", "include", "figure", "image", "guardrails-table", "eval-rst"})
_OPAQUE_PREFIX = "auto"
_REMARK = re.compile(r"<!--\s*(\w+):\s*(.*?)\s*-->", re.DOTALL)
_MARKDOWN = MarkdownIt("commonmark").enable("table")

PAGES = tuple(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path != ROOT / "docs" / "README.md"
)
"""Every page, by its path below the repository's root."""


class WrongBlock(AssertionError):
    """A block does not do what a reader takes it for."""


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Args:
        page: its page's path below the repository's root.
        line: the number of the block's first line of text, from 1.
        kind: its info string, such as `python`.
        text: what is in it.
        remarks: what the comment above it says, by key.
    """

    page: str
    line: int
    kind: str
    text: str
    remarks: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where it is, for an error."""
        return f"{self.page}:{self.line}"

    def wrong(self, problem: str, line: int = 0) -> WrongBlock:
        """What is wrong with it; `line` counts from the block's first line, from 0."""
        return WrongBlock(f"{self.page}:{self.line + line}: {problem}")


def text_of(page: str) -> str:
    """What a page says."""
    return (ROOT / page).read_text("utf-8")


def blocks_of(page: str, text: str | None = None, above: int = 0) -> Iterator[Block]:
    """The blocks of a page, in order; those in a note, a tip or a tab, too.

    Args:
        page: its path.
        text: its text; `None` is what is in the file.
        above: how many lines stand above the text.
    """
    remarks: dict[str, str] = {}
    for token in _MARKDOWN.parse(text_of(page) if text is None else text):
        line = above + token.map[0] + 1 if token.map else above
        if token.type == "html_block":
            remarks.update(_remarks(page, line, token.content))
        elif token.type == "code_block":
            raise WrongBlock(f"{page}:{line}: an indented block says not what it is: write a fenced one")
        elif token.type == "fence" and token.info.startswith("{"):
            yield from _in_directive(page, line, token.info, token.content)
        elif token.type == "fence":
            yield Block(page, line + 1, token.info.strip(), token.content, dict(remarks))
        if token.type not in ("html_block", "bullet_list_open", "ordered_list_open", "list_item_open"):
            remarks.clear()


def _remarks(page: str, line: int, comment: str) -> dict[str, str]:
    found = dict(_REMARK.findall(comment))
    if unknown := set(found) - REMARKS:
        raise WrongBlock(f"{page}:{line}: no block has a remark {', '.join(sorted(unknown))}")
    return found


def _in_directive(page: str, line: int, info: str, content: str) -> Iterator[Block]:
    name = info[1 : info.index("}")]
    if name in ("code-block", "code", "literalinclude"):
        raise WrongBlock(f"{page}:{line}: {name} would not be executed: write ```python, or what it is")
    if name not in _OPAQUE and not name.startswith(_OPAQUE_PREFIX):
        yield from blocks_of(page, content, line)


def inline_code_of(page: str) -> Iterator[tuple[int, str]]:
    """What stands between backticks in a page's text, with its line."""
    for token in _MARKDOWN.parse(text_of(page)):
        for child in token.children or ():
            if child.type == "code_inline":
                yield (token.map[0] + 1 if token.map else 0), child.content
