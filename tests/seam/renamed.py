"""A release of the Celery family in which one private name is called something else.

`rename(name)` does in this process what such a release does in its source: every use of the name in Celery, kombu,
billiard, amqp and vine is of another name from then on, so that they work as before, and whoever counts on the name
does not find it. It is to be called before celery_guardrails is imported.

    python -m tests.seam.renamed NAME -A APP worker ...        a `celery` command of such a release
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
import sys
from functools import cache
from operator import is_
from types import CodeType, FunctionType, ModuleType
from typing import Any

__all__ = ["load", "rename"]

_FAMILY = ("celery", "kombu", "billiard", "amqp", "vine")
_LATER = (
    "celery.app", "celery.backends", "celery.bin", "celery.concurrency", "celery.fixups", "celery.worker",
    "kombu.transport.virtual", "kombu.asynchronous", "kombu.utils",
)  # fmt: skip


def load() -> None:
    """Import what a worker would import later: what is not loaded cannot be renamed."""
    for name in (
        "billiard.pool",
        "celery.__main__",
        "kombu.transport.memory",
        "kombu.transport.pyamqp",
        "kombu.transport.redis",
    ):
        importlib.import_module(name)
    for package in (importlib.import_module(name) for name in _LATER):
        for info in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{package.__name__}."):
            try:
                importlib.import_module(info.name)
            except ImportError:  # a transport or pool whose library is not here
                continue
    _everything()


def rename(name: str) -> None:
    """Give a name another one, wherever the family uses it."""
    new = f"{name}_of_another_release"
    functions, owners = _everything()
    for function in functions:
        function.__code__ = _renamed(function.__code__, name, new)
    for owner in owners:
        if name in vars(owner):
            setattr(owner, new, vars(owner)[name])
            delattr(owner, name)


@cache
def _everything() -> tuple[list[FunctionType], list[Any]]:
    """Every function of the family, and every module and class that may have a name."""
    functions, owners = [], []
    for thing in gc.get_objects():
        if isinstance(thing, FunctionType) and _is_theirs(thing.__globals__.get("__name__")):
            functions.append(thing)
        elif isinstance(thing, (ModuleType, type)) and _is_theirs(_home(thing)):
            owners.append(thing)
    return functions, owners


def _home(thing: ModuleType | type) -> Any:
    return thing.__name__ if isinstance(thing, ModuleType) else thing.__module__


def _is_theirs(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in _FAMILY


def _renamed(code: CodeType, name: str, new: str) -> CodeType:
    constants = tuple(_constant(each, name, new) for each in code.co_consts)
    if name not in code.co_names and all(map(is_, constants, code.co_consts)):
        return code
    names = tuple(new if each == name else each for each in code.co_names)
    return code.replace(co_names=names, co_consts=constants)


def _constant(constant: Any, name: str, new: str) -> Any:
    if isinstance(constant, CodeType):
        return _renamed(constant, name, new)
    # `getattr(pool, "flush")`
    return new if type(constant) is str and constant == name else constant


def main(arguments: list[str]) -> None:
    """Rename the first argument, then run `celery` with the others."""
    load()
    rename(arguments[1])
    sys.argv = ["celery", *arguments[2:]]
    from celery.__main__ import main as celery

    celery()


if __name__ == "__main__":
    main(sys.argv)
