"""The house rule on length: no file over 350 lines, no function over 40.

`python house/lengths.py PATH...` prints one line for each that is longer and exits 1 if there is any. Past these
lengths the design wants another noun, so there is no way to except a file.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

__all__ = ["LONGEST_FILE", "LONGEST_FUNCTION", "faults_in", "main", "python_files"]

LONGEST_FILE = 350
LONGEST_FUNCTION = 40


def faults_in(name: str, source: str) -> Iterator[str]:
    """What is too long in one file, as `file:line: what`. A function counts from `def` to its last line.

    Raises:
        SyntaxError: the source is not Python.
    """
    lines = len(source.splitlines())
    if lines > LONGEST_FILE:
        yield f"{name}:{LONGEST_FILE + 1}: {lines} lines, at most {LONGEST_FILE}"
    for node in ast.walk(ast.parse(source, name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, at most {LONGEST_FUNCTION}"


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
    faults = [
        fault for path in python_files(map(Path, arguments)) for fault in faults_in(str(path), path.read_text("utf-8"))
    ]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
