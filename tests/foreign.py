"""What celery_guardrails uses of the Celery family beyond its documentation, as far as its source tells.

Four kinds of use: a name that is imported from a module that no documentation promises, an attribute of such a module,
an attribute with a leading underscore that no class here has, and an attribute that is set on somebody else's object.
A fifth is found by importing the package: a method of ours in place of one of theirs.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import celery_guardrails

__all__ = ["FAMILY", "Use", "overridden", "used"]

FAMILY = ("celery", "kombu", "billiard", "amqp", "vine")

PACKAGE = Path(celery_guardrails.__file__).parent

_DOCUMENTED = (
    "celery", "celery.bin.base", "celery.bootsteps", "celery.contrib", "celery.exceptions", "celery.platforms",
    "celery.schedules",
    "celery.signals", "celery.states", "celery.utils.log", "kombu", "kombu.asynchronous", "kombu.common",
    "kombu.compression", "kombu.exceptions", "kombu.serialization", "kombu.utils", "amqp",
    "amqp.exceptions", "billiard.exceptions",
)  # fmt: skip
"""Modules whose names their documentation promises. Of `celery`, `kombu` and `amqp` that is what they export."""
_WHOLE = ("celery.contrib", "kombu.asynchronous", "kombu.utils")
"""Those that are promised with all that is below them."""
_CALLS = ("getattr", "hasattr", "setattr", "delattr", "getattr_static")


@dataclass(frozen=True, order=True)
class Use:
    """One use: `name` is `module:name` where the source tells the module, else `.attribute`."""

    name: str
    where: str


def used(root: Path = PACKAGE) -> set[Use]:
    """Every use in the source below a folder."""
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(root.rglob("*.py"))}
    own = {name for tree in trees.values() for name in _defined(tree)}  # what `self` may have, from a base class
    return {use for path, tree in trees.items() for use in _uses(tree, str(path.relative_to(root)), own)}


def is_documented(module: str) -> bool:
    """Whether the names of a module of the family are promised."""
    return module in _DOCUMENTED or any(module.startswith(f"{whole}.") for whole in _WHOLE)


def _defined(tree: ast.AST) -> Iterator[str]:
    """The names of functions, classes, class attributes and attributes of `self` in a module."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
                yield from (target.id for target in targets if isinstance(target, ast.Name))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            yield node.attr


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _uses(tree: ast.Module, where: str, own: set[str]) -> Iterator[Use]:
    modules, here = dict(_modules(tree)), set(_defined(tree))
    family = bool(modules) or any(_imports(node) for node in ast.walk(tree))
    for node in ast.walk(tree):
        at = f"{where}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ImportFrom) and _imports(node) and not is_documented(str(node.module)):
            yield from (Use(f"{node.module}:{alias.name}", at) for alias in node.names if not _is_module(node, alias))
        elif isinstance(node, ast.Attribute):
            yield from (
                Use(name, at)
                for name in _of_attribute(node, modules, own if _is_self(node.value) else here, own, family)
            )
        elif family and isinstance(node, ast.Call) and len(node.args) > 1 and _name_of(node.func) in _CALLS:
            said = node.args[1]
            if isinstance(said, ast.Constant) and isinstance(said.value, str) and _is_private(said.value, here):
                yield Use(f".{said.value}", at)


def _imports(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FAMILY


def _modules(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The family's modules that a module imports: by which name, and which."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _imports(node):
            for alias in node.names:
                if _is_module(node, alias):
                    yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _is_module(node: ast.ImportFrom, alias: ast.alias) -> bool:
    found = getattr(importlib.import_module(str(node.module)), alias.name, None)
    if isinstance(found, ModuleType):
        return True
    try:
        return importlib.util.find_spec(f"{node.module}.{alias.name}") is not None
    except ModuleNotFoundError:
        return False


def _of_attribute(
    node: ast.Attribute, modules: dict[str, str], known: set[str], own: set[str], family: bool
) -> Iterator[str]:
    base = node.value.id if isinstance(node.value, ast.Name) else None
    if base in modules:
        if not is_documented(modules[base]) and (not node.attr.startswith("__") or node.attr == "__trace__"):
            yield f"{modules[base]}:{node.attr}"
        return
    is_set = isinstance(node.ctx, (ast.Store, ast.Del)) and not _is_self(node.value)
    is_set = is_set and node.attr not in own and not node.attr.startswith("_guardrails")
    if family and (is_set or _is_private(node.attr, known)):
        yield f".{node.attr}"


def _is_private(name: str, own: set[str]) -> bool:
    return name.startswith("_") and not name.startswith(("__", "_guardrails")) and name not in own


def _name_of(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def overridden() -> set[Use]:
    """Every method or attribute of a class here that stands in place of one of the family's, and is no step's."""
    found = set()
    for cls in _classes():
        theirs = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in FAMILY]
        for name in vars(cls):
            if name.startswith("__"):
                continue
            owner = next((base for base in theirs if name in vars(base)), None)
            if owner is not None and not is_documented(owner.__module__):
                found.add(Use(f"{owner.__module__}:{owner.__qualname__}.{name}", f"{cls.__module__}.{cls.__name__}"))
    return found


def _classes() -> Iterator[type]:
    for info in pkgutil.walk_packages([str(PACKAGE)], f"{celery_guardrails.__name__}."):
        if ".migrations." in info.name:
            continue
        module = importlib.import_module(info.name)
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__:
                yield cls
