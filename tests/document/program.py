"""A page's Python blocks as programs: one a project, each run by `runner.py` in a folder and a process of its own.

Owns how a block says which file it is, and what of a page's console makes files. What a block may rely on is in
docs/README.md.
"""

from __future__ import annotations

import ast
import atexit
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.document.block import Block, WrongBlock
from tests.document.command import commands_in, console_lines
from tests.harness import ROOT

__all__ = ["fragment_faults", "modules_of", "projects_of", "run"]

FILE = re.compile(r"\A# (?P<file>[\w./-]+\.py)(?P<append>, at the end)?\n")
"""The first line of a block that is a file."""


def projects_of(blocks: Sequence[Block]) -> Iterator[list[dict[str, Any]]]:
    """The steps of each project of a page, in order; a page without Python has none."""
    steps: list[dict[str, Any]] = []
    for block in blocks:
        if "project" in block.remarks:
            yield from [steps] if _runs(steps) else []
            steps = []
        if "fragment" not in block.remarks:
            steps += _steps_of(block)
    yield from [steps] if _runs(steps) else []


def _runs(steps: Sequence[dict[str, Any]]) -> bool:
    return any(step["do"] != "command" for step in steps)


def _steps_of(block: Block) -> Iterator[dict[str, Any]]:
    at = {"page": block.page, "line": block.line, "place": block.place}
    if block.kind == "python":
        named = FILE.match(block.text)
        if named and "raises" not in block.remarks:
            yield {"do": "file", "file": named["file"], "append": bool(named["append"]), "text": block.text, **at}
        else:
            yield {"do": "code", "text": block.text, "raises": block.remarks.get("raises", ""), **at}
    elif block.kind == "pycon":
        yield {"do": "session", "text": block.text, **at}
    elif block.kind == "console":
        for _, line in console_lines(block.text):
            yield from ({"do": "command", "words": words, **at} for words in _makers(line))


def _makers(line: str) -> Iterator[list[str]]:
    """The commands of a line that make a project's files, as they are run here."""
    for words in commands_in(line):
        if words[0] == "django-admin" and words[1:2] == ["startproject"]:
            yield [sys.executable, "-m", "django", *words[1:]]
        elif words[0].startswith("python") and words[1:3] == ["manage.py", "startapp"]:
            yield [sys.executable, *words[1:]]


def modules_of(blocks: Sequence[Block]) -> frozenset[str]:
    """The top modules of a page's project, by its blocks and by the commands that make files."""
    found: set[str] = set()
    for block in blocks:
        for step in _steps_of(block):
            if step["do"] == "file":
                found.add(Path(step["file"]).with_suffix("").parts[0])
            elif step["do"] == "command":
                found |= {word for word in step["words"][3:] if word.isidentifier()}
    return frozenset(found)


def run(steps: Sequence[dict[str, Any]], folder: Path) -> None:
    """Run the steps in this folder, in a process of their own.

    Raises:
        WrongBlock: with what the first block that does not do what it says has said.
    """
    project, output = folder / "project", folder / "output"
    project.mkdir()
    runner = _runner()
    assert runner.stdin is not None
    assert runner.stdout is not None
    runner.stdin.write(json.dumps({"steps": steps, "folder": str(project), "output": str(output)}) + "\n")
    runner.stdin.flush()
    code = runner.stdout.readline().strip()
    if code != "0":
        raise WrongBlock(f"{output.read_text() if output.exists() else ''}ended with {code or 'the runner'}")


@cache
def _runner() -> subprocess.Popen[str]:
    """The process that runs what pages say; it ends with this one, which holds its stdin."""
    # Celery takes the broker's URL from the variable before the application's: nothing here needs a server
    environment = {**os.environ, "CELERY_BROKER_URL": "memory://", "PYTHONPATH": str(ROOT)}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    runner = subprocess.Popen(
        [sys.executable, "-m", "tests.document.runner"],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    atexit.register(_end, runner)
    return runner


def _end(runner: subprocess.Popen[str]) -> None:
    assert runner.stdin is not None
    assert runner.stdout is not None
    runner.stdin.close()
    runner.stdout.close()
    runner.wait()


def fragment_faults(block: Block) -> Iterator[str]:
    """What is wrong with a block that cannot run: its syntax, and the names that it imports."""
    if not block.remarks["fragment"]:
        yield "a fragment says why it cannot run"
    try:
        tree = ast.parse(block.text)
    except SyntaxError as error:
        yield f"line {error.lineno}: {error.msg}"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (fault for each in node.names if (fault := _missing(each.name)))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (fault for each in node.names if (fault := _missing(node.module, each.name)))


def _missing(module: str, name: str | None = None) -> str | None:
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        return f"{module}: {error}"
    if name is None or name == "*" or hasattr(found, name):
        return None
    try:
        importlib.import_module(f"{module}.{name}")
    except ImportError:
        return f"{module} has no {name}"
    return None
