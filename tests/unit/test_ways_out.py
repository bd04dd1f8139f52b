"""Every way out cleans what it shows: there is one for each place, and nobody goes past it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import celery_guardrails
from celery_guardrails import log

PACKAGE = Path(celery_guardrails.__file__).parent
FOREIGN = ("alembic", "celery.worker.request")
"""Loggers of others that are named here: to be told less by them, or where Celery wants one."""


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_commands_print_by_the_functions_that_clean() -> None:
    past = [
        f"{name}:{node.lineno} {called}"
        for name, tree in sources()
        if name not in ("cli/output.py",) and not name.startswith("testing/")
        for called, node in calls(tree)
        if called in ("click.echo", "click.secho", "print", "Console", "sys.stdout.write", "sys.stderr.write")
    ]
    assert past == []


def test_every_logger_of_ours_is_known_and_cleans() -> None:
    import logging

    for name, tree in sources():
        for called, node in calls(tree):
            if called in ("logging.getLogger", "get_logger") and node.args:
                named = node.args[0]
                text = named.value if isinstance(named, ast.Constant) else None
                if isinstance(named, ast.Name) and named.id == "__name__":
                    text = "celery_guardrails." + name.removesuffix(".py").replace("/", ".")
                if text is not None and text not in FOREIGN:
                    assert text in log.LOGGERS, f"{name}:{node.lineno}"
    for name in log.LOGGERS:
        assert len([one for one in logging.getLogger(name).filters if type(one).__module__ == log.__name__]) == 1


def test_commands_are_put_together_by_the_function_that_quotes() -> None:
    """`celery -A {app}` in an f-string is a command whose words nobody has quoted."""
    put_together = re.compile(r"celery -A \{|shlex\.quote|shlex\.join|shell_quote\(\s*f")
    past = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "command.py"
        for line in path.read_text().splitlines()
        if put_together.search(line)
    ]
    assert past == []
