"""A task's arguments as people see them: named, redacted, cut.

Owns previews, and the values that a policy wants in clear (`correlate`, `affected_by`). It must not fail whatever
the arguments are: a broken `__repr__` becomes a remark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from celery_guardrails.letters.record import Preview
from celery_guardrails.letters.redact import MASK, Redactor

__all__ = ["OVERSIZED_LIMIT", "PREVIEW_LIMIT", "named_values", "preview"]

PREVIEW_LIMIT = 4000
"""Characters of a preview, each of args and kwargs."""
OVERSIZED_LIMIT = 500
"""The same for a payload over `dead_letter.max_payload`."""
_VALUE_LIMIT = 200


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
    masked_args = tuple(
        redactor.mask(value, names[position] if position < len(names) else None) for position, value in enumerate(args)
    )
    shown_args, cut_args = _text(masked_args, limit)
    shown_kwargs, cut_kwargs = _text(redactor.mask(dict(kwargs)), limit)
    return Preview(args=shown_args, kwargs=shown_kwargs, truncated=cut_args or cut_kwargs)


def named_values(wanted: Iterable[str], arguments: Mapping[str, Any], redactor: Redactor) -> dict[str, str]:
    """The values of the arguments that a policy names, as short text.

    A dotted name such as `order.id` looks into mappings. A name that a policy or the settings redact stays hidden.
    """
    found: dict[str, str] = {}
    for name in wanted:
        value: Any = arguments
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
            if value is None:
                break
        if value is not None:
            found[name] = MASK if redactor.hides(name.rsplit(".", 1)[-1]) else _plain(value)
    return found


def _plain(value: Any) -> str:
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception as exc:  # noqa: BLE001 a user's __str__
        text = f"<{type(value).__name__}: unprintable, {type(exc).__name__}>"
    return text[:_VALUE_LIMIT]


def _text(value: Any, limit: int) -> tuple[str, bool]:
    try:
        text = repr(value)
    except Exception as exc:  # noqa: BLE001 a user's __repr__
        text = f"<unprintable: {type(exc).__name__}>"
    return (text, False) if len(text) <= limit else (f"{text[:limit]}...", True)
