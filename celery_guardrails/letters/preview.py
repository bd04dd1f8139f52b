"""A task's arguments as people see them: named, redacted, cut.

Owns previews, and the values that a policy wants in clear (`correlate`, `affected_by`). It must never fail, whatever
the arguments are: the preview of a broken `__repr__` is a remark.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from celery_guardrails.letters.record import Named, Preview
from celery_guardrails.redaction import MASK, Redactor, Work

__all__ = [
    "OVERSIZED_LIMIT",
    "PREVIEW_LIMIT",
    "named_in_items",
    "named_values",
    "preview",
    "preview_items",
    "preview_unknown",
    "unknown_args",
    "unknown_kwargs",
]

PREVIEW_LIMIT = 4000
"""Characters of a preview, each of args and kwargs."""
OVERSIZED_LIMIT = 500
"""The same for a payload over `dead_letter.max_payload`."""
_VALUE_LIMIT = 200
_ITEMS_SHOWN = 100
_NAME_LIMIT = 80
_LOOKED_AT = 16
"""How many characters of the arguments are read for each character that is shown."""
_LEAST = 4_000


def preview(
    args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str], redactor: Redactor, limit: int = PREVIEW_LIMIT
) -> Preview:
    """The arguments redacted and cut.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        names: the parameters' names, so that a positional password is hidden too; may be shorter than `args`.
        redactor: what to hide.
        limit: characters kept of each.
    """
    of_args, of_kwargs = _work(limit), _work(limit)
    shown_args, cut_args = _text(_masked(args, names, redactor, of_args), limit)
    shown_kwargs, cut_kwargs = _text(redactor.mask(dict(kwargs), work=of_kwargs), limit)
    cut = cut_args or cut_kwargs or of_args.is_cut or of_kwargs.is_cut
    return Preview(args=shown_args, kwargs=shown_kwargs, truncated=cut)


def preview_items(
    way: str, items: Sequence[Sequence[Any]], names: Sequence[str], redactor: Redactor, limit: int = PREVIEW_LIMIT
) -> Preview:
    """The items of a message that runs a task once for each item, redacted and cut.

    Args:
        way: Celery's name for such a message, such as `celery.starmap`.
        items: for each item, the task's positional arguments.
        names: the parameters' names.
        redactor: what to hide.
        limit: characters kept.
    """
    work = _work(limit)
    shown, cut = _text([_masked(item, names, redactor, work) for item in items[:_ITEMS_SHOWN]], limit)
    some = f"the first {_ITEMS_SHOWN} of " if len(items) > _ITEMS_SHOWN else ""
    text = f"{way}, {some}{len(items):,} item{'s' if len(items) != 1 else ''}: {shown}"
    return Preview(args=text, truncated=cut or work.is_cut or bool(some))


def preview_unknown(args: Any, kwargs: Any, redactor: Redactor) -> Preview:
    """The arguments of a task that is unknown here: how many there are, and the keywords' names, but no values.

    A value is hidden by the name of its parameter, and the parameters of an unknown task have no known names.

    Args:
        args: the message's positional arguments; of any type.
        kwargs: the message's keyword arguments; of any type.
        redactor: what to hide; a name may look like a secret, too.
    """
    return Preview(args=unknown_args(args), kwargs=unknown_kwargs(kwargs, redactor))


def unknown_args(args: Any) -> str:
    """How many positional arguments there are, without their values."""
    if not isinstance(args, (list, tuple)):
        return f"(a {type(args).__name__} in place of arguments)"
    return f"({len(args)} not shown)" if args else "()"


def unknown_kwargs(kwargs: Any, redactor: Redactor) -> str:
    """Which keyword arguments there are, without their values."""
    if not isinstance(kwargs, Mapping):
        return f"(a {type(kwargs).__name__} in place of keyword arguments)"
    names = [redactor.plain(name)[:_NAME_LIMIT] for name in itertools.islice(kwargs, _ITEMS_SHOWN)]
    more = f", and {len(kwargs) - _ITEMS_SHOWN} more" if len(kwargs) > _ITEMS_SHOWN else ""
    return f"({', '.join(names)}{more}: not shown)" if names else "{}"


def named_values(wanted: Iterable[str], arguments: Mapping[str, Any], redactor: Redactor) -> dict[str, str]:
    """The values of the arguments that a policy names, as short text.

    A dotted name such as `order.id` reads from mappings and objects. The value stays hidden if a part of the name
    promises a secret, and secrets in a value stay hidden, too.
    """
    found: dict[str, str] = {}
    for name in wanted:
        value: Any = arguments
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
            if value is None:
                break
        if value is not None:
            hides = any(redactor.hides(part) for part in name.split("."))
            found[name] = MASK if hides else redactor.plain(value, _work(_VALUE_LIMIT))[:_VALUE_LIMIT]
    return found


def named_in_items(wanted: Iterable[str], items: Iterable[Mapping[str, Any]], redactor: Redactor) -> dict[str, Named]:
    """The named values of several items: one text if all agree, else the different values of the first 100 items."""
    found: dict[str, dict[str, None]] = {}
    for item in itertools.islice(items, _ITEMS_SHOWN):
        for name, value in named_values(wanted, item, redactor).items():
            found.setdefault(name, {})[value] = None
    return {name: next(iter(values)) if len(values) == 1 else tuple(values) for name, values in found.items()}


def _work(limit: int) -> Work:
    """How much to read for so many shown characters: more, because a mask is shorter than the text that it hides."""
    return Work(characters=_LOOKED_AT * limit + _LEAST, values=limit)


def _masked(args: Sequence[Any], names: Sequence[str], redactor: Redactor, work: Work) -> tuple[Any, ...]:
    masked: list[Any] = []
    for position, value in enumerate(args):
        if work.values <= 0:
            masked.append(f"... {len(args) - position} more")
            break
        masked.append(redactor.mask(value, names[position] if position < len(names) else None, work=work))
    return tuple(masked)


def _text(value: Any, limit: int) -> tuple[str, bool]:
    try:
        text = repr(value)
    except Exception as exc:  # noqa: BLE001 a user's __repr__
        text = f"<unprintable: {type(exc).__name__}>"
    return (text, False) if len(text) <= limit else (f"{text[:limit]}...", True)
