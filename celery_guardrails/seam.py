"""A seam is a name of Celery, kombu, billiard or py-amqp that their documentation does not promise.

Owns the search for a seam, by import and attribute, the comparison of the parameters that guardrails relies on, and the
words that say what is missing. It must not know which seams there are: `seams.py` lists them.
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
    "Guard", "Missing", "Seam", "by_guard", "explain", "is_later", "problem_of", "releases", "remedy", "report",
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
            `None`: the parameters do not matter.
        since: the first version of its library that has it, such as `5.7`; "": every version that setup.cfg allows.
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
    for written, use in uses.items():
        name, _, parameters = written.partition("(")
        takes = tuple(filter(None, parameters.rstrip(")").split(", "))) if "(" in written else None
        where = f"{owner}{'.' if ':' in owner else ':'}{name}"
        yield Seam(where, use, guards if isinstance(guards, tuple) else (guards,), takes, since)


def is_later(seam: Seam) -> bool:
    """Whether the installed library is older than the seam: setup.cfg allows it, guardrails does without the seam."""
    if not seam.since:
        return False
    known = import_module(seam.library).VERSION
    return tuple(known)[:2] < tuple(int(part) for part in seam.since.split("."))


def problem_of(seam: Seam) -> str:
    """What is wrong with a seam in the installed release; "": nothing.

    Where only instances have the attribute, it is searched for in the code of their class.
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
    """How its parameters differ from those that guardrails relies on; "": not at all."""
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
    return f"takes ({', '.join(positional)}), not ({', '.join(takes)})"


def report(found: Sequence[Missing]) -> str:
    """What is missing, which guards are off, and what to do, in one text of several lines."""
    lines = [f"{releases()} lacks what celery-guardrails uses of it."]
    lines.extend(f"  {text}" for _, text in by_guard(found))
    return "\n".join([*lines, f"Fix: {remedy()}"])


def by_guard(found: Sequence[Missing]) -> Iterator[tuple[Guard, str]]:
    """Each guard that lacks a seam, with a line that says what follows and which seams are missing."""
    for guard in dict.fromkeys(guard for each in found for guard in each.seam.guards):
        names = "; ".join(
            f"{each.seam.name} {each.problem} ({each.seam.use})" for each in found if guard in each.seam.guards
        )
        off = "needed, guardrails does not work without it" if guard.vital else "off, as in plain Celery"
        yield guard, f"{guard.name}: {off}. {guard.without} Missing: {names}."


def explain(exc: ImportError | AttributeError) -> Exception:
    """The error to raise for a failed import: where the installed Celery lacks the name, it says so and names the fix.

    Any other error is returned as it is.
    """
    where = (
        exc.name if isinstance(exc, ImportError) else getattr(exc.obj, "__module__", getattr(exc.obj, "__name__", ""))
    )
    if str(where).partition(".")[0] not in _FAMILY:
        return exc
    return ImportError(f"celery-guardrails does not work with {releases()}: {exc}. Fix: {remedy()}")


def releases() -> str:
    """The installed releases of Celery, kombu, billiard and py-amqp, as people write them."""
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
    return f"type: pip install {bounds}" if bounds else "install a release of celery-guardrails that knows this Celery."


def _bounds() -> Iterable[str]:
    """The releases of the family that this release of guardrails is made for."""
    try:
        known = requires("celery-guardrails") or []
    except PackageNotFoundError:
        return []
    return [each for each in known if re.match(rf"({'|'.join(_FAMILY)})[<>=!~]", each)]
