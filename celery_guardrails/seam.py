"""What a seam is, a name of the Celery family that its documentation does not promise, and whether it is there.

Owns looking for one, by import and attribute, comparing the parameters of what guardrails calls or overrides, and the
words that say what is missing. Which seams there are is in `seams.py`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from types import CodeType
from typing import Any

__all__ = [
    "Guard", "Missing", "Seam", "by_guard", "explained", "is_later", "problem_of", "releases", "remedy", "report",
    "seams_of",
]  # fmt: skip

_FAMILY = ("celery", "kombu", "billiard", "amqp")


@dataclass(frozen=True, slots=True)
class Guard:
    """One protection that needs seams.

    Args:
        name: what it protects.
        without: what a worker does without it, as a sentence.
        vital: whether a worker must not start without it.
    """

    name: str
    without: str
    vital: bool = False


@dataclass(frozen=True, slots=True)
class Seam:
    """One name of the Celery family that its documentation does not promise.

    Args:
        name: where it is, `module:Class.attribute`.
        use: what guardrails uses it for.
        guards: what needs it.
        takes: the names of its first parameters, without `self`; others may follow. Those after `*` may stand anywhere.
            `None`: they do not matter.
        since: the version of its library that brought it, such as `5.7`; "": all that setup.cfg allows have it.
    """

    name: str
    use: str
    guards: tuple[Guard, ...]
    takes: tuple[str, ...] | None = None
    since: str = ""

    @property
    def library(self) -> str:
        """The package that it is in: `celery`, `kombu`, `billiard`, `amqp`."""
        return self.name.partition(".")[0].partition(":")[0]


@dataclass(frozen=True, slots=True)
class Missing:
    """A seam that this Celery does not have, or not as guardrails knows it; `problem` says which."""

    seam: Seam
    problem: str


def seams_of(owner: str, guards: Guard | tuple[Guard, ...], uses: Mapping[str, str], since: str = "") -> Iterator[Seam]:
    """The seams of one module or class: each name, with its parameters where they matter, and what it is for."""
    for said, use in uses.items():
        name, _, parameters = said.partition("(")
        takes = tuple(filter(None, parameters.rstrip(")").split(", "))) if "(" in said else None
        where = f"{owner}{'.' if ':' in owner else ':'}{name}"
        yield Seam(where, use, guards if isinstance(guards, tuple) else (guards,), takes, since)


def is_later(seam: Seam) -> bool:
    """Whether the library is older than the seam, as setup.cfg allows: guardrails does without it there."""
    if not seam.since:
        return False
    known = import_module(seam.library).VERSION
    return tuple(known)[:2] < tuple(int(part) for part in seam.since.split("."))


def problem_of(seam: Seam) -> str:
    """What is wrong with the place that a seam names; "": nothing.

    An attribute that only instances have is looked for in the code of their class.
    """
    module, _, path = seam.name.partition(":")
    try:
        found: Any = import_module(module)
    except ImportError:
        return "is gone"
    owner, *rest = path.split(".")
    for number, name in enumerate((owner, *rest)):
        if not hasattr(found, name):
            return "" if number and _is_set(found, name) else "is gone"
        found = getattr(found, name)
    return _changed(found, seam.takes) if seam.takes is not None else ""


def _is_set(owner: Any, name: str) -> bool:
    """Whether the code of a function, or of a class, uses an attribute of this name."""
    if hasattr(owner, "__code__"):
        return _uses(owner.__code__, name)
    places = [place for base in getattr(owner, "__mro__", ()) if base is not object for place in vars(base).values()]
    return any(_uses(place.__code__, name) for place in places if hasattr(place, "__code__"))


def _uses(code: CodeType, name: str) -> bool:
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return name in code.co_names or any(_uses(each, name) for each in inner)


def _changed(function: Callable[..., Any], takes: tuple[str, ...]) -> str:
    """In what its parameters differ from those that guardrails counts on; "": in nothing."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # not written in Python
        return ""
    named = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    positional = [name for name in named if name != "self"]
    any_name = any(each.kind is each.VAR_KEYWORD for each in parameters)
    any_place = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    place = takes.index("*") if "*" in takes else len(takes)
    first, anywhere = takes[:place], takes[place + 1 :]
    fits = tuple(positional[: len(first)]) == first or (any_place and first[: len(positional)] == tuple(positional))
    if fits and (any_name or set(anywhere) <= set(named)):
        return ""
    return f"takes ({', '.join(positional)}) and not ({', '.join(takes)})"


def report(found: Sequence[Missing]) -> str:
    """What is missing, what that leaves unprotected, and what to do: one text of several lines for all of it."""
    lines = [f"{releases()} lacks what celery-guardrails uses of it."]
    lines.extend(f"  {text}" for _, text in by_guard(found))
    return "\n".join([*lines, f"Fix: {remedy()}"])


def by_guard(found: Sequence[Missing]) -> Iterator[tuple[Guard, str]]:
    """Each guard that lacks something, with a line that says what it lacks and what is not protected without it."""
    for guard in dict.fromkeys(guard for each in found for guard in each.seam.guards):
        names = "; ".join(
            f"{each.seam.name} {each.problem} ({each.seam.use})" for each in found if guard in each.seam.guards
        )
        off = "guardrails cannot do without" if guard.vital else "off, Celery does as it does"
        yield guard, f"{guard.name}: {off}. {guard.without} Missing: {names}."


def explained(exc: ImportError | AttributeError) -> Exception:
    """What an import of ours failed on, for whoever has installed a release of Celery that lacks it; else as it is."""
    where = (
        exc.name if isinstance(exc, ImportError) else getattr(exc.obj, "__module__", getattr(exc.obj, "__name__", ""))
    )
    if str(where).partition(".")[0] not in _FAMILY:
        return exc
    return ImportError(f"celery-guardrails does not work with {releases()}: {exc}. Fix: {remedy()}")


def releases() -> str:
    """The installed releases of the family, as people say them."""
    celery, *others = (f"{name} {_release(name)}" for name in _FAMILY)
    return f"{celery.capitalize()} ({', '.join(others)})"


def _release(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of an unknown version"


def remedy() -> str:
    """What to do where a seam is missing."""
    bounds = " ".join(f"'{each}'" for each in _bounds())
    return f"type: pip install {bounds}" if bounds else "install a release of celery-guardrails that knows it."


def _bounds() -> Iterable[str]:
    """The releases of the family that this release of guardrails is made for."""
    try:
        known = requires("celery-guardrails") or []
    except PackageNotFoundError:
        return []
    return [each for each in known if re.match(rf"({'|'.join(_FAMILY)})[<>=!~]", each)]
