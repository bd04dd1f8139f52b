"""The dotted names of classes, by which failures are matched and stored.

It must never import what a name stands for.
"""

from __future__ import annotations

import sys

__all__ = ["dotted_name", "mro_names", "resolved"]


def dotted_name(value: object) -> str:
    """`module.qualname` of a class or function; built-ins without their module."""
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    return str(name) if module in (None, "builtins") else f"{module}.{name}"


def mro_names(cls: type) -> tuple[str, ...]:
    """The dotted names of the class and its bases, nearest first, without `object`."""
    return tuple(dotted_name(base) for base in cls.__mro__ if base is not object)


def resolved(path: str) -> str:
    """The name under which a class knows itself, when `path` is an alias in a module that is loaded; else `path`.

    `redis.ConnectionError` is `redis.exceptions.ConnectionError`: people write the first, classes say the second.
    A class that was raised has its modules loaded, so nothing needs to be imported for this.
    """
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:cut]))
        if module is None:
            continue
        found: object = module
        for part in parts[cut:]:
            # Through vars: a getattr could run a lazily importing module's __getattr__.
            found = vars(found).get(part) if hasattr(found, "__dict__") else None
        return dotted_name(found) if isinstance(found, type) else path
    return path
