"""The house rule on length, in lines of code: no file over 350, no function over 40, none under 40 without a reason.

`python house/lengths.py PATH...` prints one line for each fault and exits 1 if there is any. A line of code has
something that runs: blank lines, comments and docstrings do not count, so that nobody saves on words. Past these
lengths the design wants another noun, so there is no way to except a file.

A module of the package with fewer than 40 lines of code stands on its own because several modules use it. Where at most
one does, it says why, in a comment of one line:

    # on its own: each check of the doctor is a file, however short

The comment goes away when the module has grown. Packages' `__init__.py` and migrations need no reason.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath

__all__ = ["LONGEST_FILE", "LONGEST_FUNCTION", "SHORTEST_FILE", "code_lines", "faults_in", "main", "python_files"]

LONGEST_FILE = 350
LONGEST_FUNCTION = 40
SHORTEST_FILE = 40
"""Below this, a module of the package that fewer than two others use wants a reason."""

_PACKAGE = "celery_guardrails"
_REASON = re.compile(r"^# on its own: (\S+ ){2,}\S+", re.MULTILINE)
_ASIDE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold code; strings that stand alone, as docstrings do, are none.

    Raises:
        SyntaxError: the source is not Python.
    """
    module = ast.parse(source)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _ASIDE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(module):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(_span(node))
    return lines


def _span(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def faults_in(name: str, source: str, users: int = 2) -> Iterator[str]:
    """What is too long or too short in one file, as `file:line: what`. A function counts from its `def`.

    Args:
        name: the file's path, as it is shown.
        source: what it holds.
        users: how many other modules of the package import it.

    Raises:
        SyntaxError: the source is not Python.
    """
    lines = code_lines(source)
    if len(lines) > LONGEST_FILE:
        yield f"{name}:{sorted(lines)[LONGEST_FILE]}: {len(lines)} lines of code, at most {LONGEST_FILE}"
    for node in ast.walk(ast.parse(source, name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = len(lines.intersection(_span(node)))
            if length > LONGEST_FUNCTION:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines of code, at most {LONGEST_FUNCTION}"
    path = PurePath(name)
    if _PACKAGE in path.parts and path.name != "__init__.py" and "migrations" not in path.parts:
        yield from _short(name, source, len(lines), users)


def _short(name: str, source: str, length: int, users: int) -> Iterator[str]:
    reason = _REASON.search(source)
    if length < SHORTEST_FILE and users < 2 and not reason:
        yield (
            f"{name}:1: {length} lines of code, and {users or 'no'} other module uses them: put them where they are "
            "used, or say why they are a file (# on its own: ...)"
        )
    if length >= SHORTEST_FILE and reason:
        yield f"{name}:{source.count(chr(10), 0, reason.start()) + 1}: {length} lines of code need no reason any more"


def _users(sources: Mapping[str, str]) -> Counter[str]:
    """How many of these files import each module, by the module's dotted name."""
    found: Counter[str] = Counter()
    for source in sources.values():
        named: set[str] = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module:
                named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
        found.update(named)
    return found


def _dotted(name: str) -> str:
    parts = PurePath(name).with_suffix("").parts
    return ".".join(parts[parts.index(_PACKAGE) :]) if _PACKAGE in parts else ""


def python_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The Python files among and below `paths`, in order."""
    for path in paths:
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def main(arguments: Sequence[str]) -> int:
    """Check the files and folders named; returns the exit code."""
    missing = [name for name in arguments if not Path(name).exists()]
    if missing or not arguments:
        print(f"no such file or folder: {', '.join(missing)}" if missing else "name the files or folders to check")
        return 2
    sources = {str(path): path.read_text("utf-8") for path in python_files(map(Path, arguments))}
    users = _users({name: source for name, source in sources.items() if _dotted(name)})
    faults = [fault for name, source in sources.items() for fault in faults_in(name, source, users[_dotted(name)])]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
