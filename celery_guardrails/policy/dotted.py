"""The dotted names of classes, by which failures are matched and stored.

It must never import what a name stands for.
"""

from __future__ import annotations

import sys
from functools import lru_cache

__all__ = ["dotted_name", "mro_names", "resolve"]


def dotted_name(value: object) -> str:
    """`module.qualname` of a class or function; built-ins without their module."""
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    return str(name) if module in (None, "builtins") else f"{module}.{name}"


def mro_names(cls: type) -> tuple[str, ...]:
    """The dotted names of the class and its bases, nearest first, without `object`."""
    try:
        return _mro_names(cls)
    except TypeError:  # its metaclass has no hash, so it cannot be cached
        return _mro_names.__wrapped__(cls)


@lru_cache(maxsize=256)
def _mro_names(cls: type) -> tuple[str, ...]:
    return tuple(dotted_name(base) for base in cls.__mro__ if base is not object)


def resolve(path: str) -> str:
    """The class's own dotted name, where `path` is an alias of it in a loaded module; else `path`.

    `redis.ConnectionError` is an alias of `redis.exceptions.ConnectionError`: people write the first, the class has the
    second. Nothing is imported: the modules of a class that was raised are loaded already.
    """
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:cut]))
        if module is None:
            continue
        found: object = module
        for part in parts[cut:]:
            # Not getattr: it could run a module's own __getattr__, which may import.
            found = vars(found).get(part) if hasattr(found, "__dict__") else None
        return dotted_name(found) if isinstance(found, type) else path
    return path
