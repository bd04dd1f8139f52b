"""Finds the task that a wrong declaration belongs to, in the source file of the caller.

Best effort, and only after an error. It must not know what is being declared.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Iterator
from types import FrameType

__all__ = ["task_name"]

_OURS = __name__.rpartition(".policy.")[0]
_INTERNAL = (_OURS, "pydantic", "pydantic_core", "contextlib", "dataclasses")
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def task_name() -> str | None:
    """The task that the nearest caller outside this package declares, else `file:line`, else `None`."""
    frame = _caller(sys._getframe(1))
    if frame is None:
        return None
    filename, line = frame.f_code.co_filename, frame.f_lineno
    try:
        module = ast.parse("".join(linecache.getlines(filename)))
        found = _declared_at(module, line)
    except Exception:  # noqa: BLE001 a module's own loader may raise anything, and the fault itself is to be shown
        found = None
    if found is None:
        return f"{filename}:{line}"
    explicit, qualname = found
    return explicit or f"{frame.f_globals.get('__name__', '?')}.{qualname}"


def _caller(frame: FrameType | None) -> FrameType | None:
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not any(name == own or name.startswith(own + ".") for own in _INTERNAL):
            return frame
        frame = frame.f_back
    return None


def _declared_at(module: ast.Module, line: int) -> tuple[str | None, str] | None:
    """The explicit name, if any, and the qualname of the innermost definition that declares a policy on this line."""
    found: tuple[str | None, str] | None = None
    path: list[str] = []
    node: ast.AST = module
    while True:
        definition = next(_definitions(node, line), None)
        if definition is None:
            return found
        in_decorator = any(_holds(decorator, line) for decorator in definition.decorator_list)
        if in_decorator or isinstance(definition, ast.ClassDef):
            found = (_explicit_name(definition, line), ".".join([*path, definition.name]))
        if in_decorator:
            return found
        path += [definition.name] if isinstance(definition, ast.ClassDef) else [definition.name, "<locals>"]
        node = definition


def _definitions(node: ast.AST, line: int) -> Iterator[_Definition]:
    """The outermost definitions within this node that span the line, also those below an `if`, `try` or `with`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Definition):
            if _spans(child, line):
                yield child
        else:
            yield from _definitions(child, line)


def _spans(node: _Definition, line: int) -> bool:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return first <= line <= (node.end_lineno or node.lineno)


def _holds(node: ast.expr, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _explicit_name(node: _Definition, line: int) -> str | None:
    """The string that the decorator gives as `name=`, or the class gives as its `name`."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and _holds(decorator, line):
            for keyword in decorator.keywords:
                if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value)
    for statement in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            targets = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            if "name" in targets and isinstance(statement.value.value, str):
                return statement.value.value
    return None
