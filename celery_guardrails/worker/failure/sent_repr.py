"""`argsrepr` and `kwargsrepr` of a message: which of them are the sender's own, and how a retry keeps those.

Celery writes both into every message. Our header names those that the caller of `apply_async` gave. Without our header,
a text is the sender's own if Celery would have written a different text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery
from celery.utils.saferepr import saferepr

from celery_guardrails.app.carried import CARRIERS
from celery_guardrails.letters.header import read_header
from celery_guardrails.letters.sender_text import SenderText

__all__ = ["described_by", "kept_reprs", "sender_text"]

_NAMES = {"args": "argsrepr", "kwargs": "kwargsrepr"}
_UNKNOWN = "(hidden by the sender)"
_CHANGED = "(changed by a retry, hidden by the sender)"
_LEVELS = 3  # Celery's, before it had the setting
_BRACKETS = str.maketrans("()", "[]")
_EMPTY: dict[type, str] = {tuple: "[]", dict: "{}"}
"""What Celery writes where there are no arguments."""


def described_by(options: Mapping[str, Any]) -> list[str]:
    """Which of `args` and `kwargs` have a text of the caller's in these options of `apply_async`."""
    return [which for which, option in _NAMES.items() if options.get(option) is not None]


def sender_text(
    app: Celery,
    headers: Mapping[str, Any],
    args: Any,
    kwargs: Any,
    *,
    known: bool = True,
    described: Sequence[str] | None = None,
) -> SenderText:
    """The sender's own texts for the arguments of a message.

    Args:
        app: the application.
        headers: the message's, or a request's attributes, which hold them.
        args: positional arguments, decoded.
        kwargs: keyword arguments, decoded.
        known: whether the task is known here. If not, only a text that our header names counts: a text by another
            program differs from Celery's, and may still show all arguments.
        described: what our header among `headers` says of it; `None`: the header is read.
    """
    if described is None:
        described = read_header(headers, attempts=False).described
    own = {which: which in described for which in _NAMES}
    texts = {which: headers.get(option) for which, option in _NAMES.items()}
    if known and headers.get("task") not in CARRIERS:  # their arguments are another task's, and shown by item
        own["args"] = own["args"] or _is_own(app, texts["args"], tuple(args), "argsrepr_maxsize")
        own["kwargs"] = own["kwargs"] or _is_own(app, texts["kwargs"], dict(kwargs), "kwargsrepr_maxsize")
    return SenderText(**{which: _text(texts[which]) for which in _NAMES if own[which]})


def kept_reprs(app: Celery, request: Any, args: Any, kwargs: Any) -> dict[str, str]:
    """The options with which a retry of this request hides what its sender hid.

    Args:
        app: the application.
        request: the request.
        args: the retry's positional arguments, `None` for the request's.
        kwargs: likewise.
    """
    text = sender_text(app, request.__dict__, request.args or (), request.kwargs or {})
    if text == SenderText():
        return {}
    kept = {}
    for which, new in (("args", args), ("kwargs", kwargs)):
        own: str | None = getattr(text, which)
        if new is not None and not _equal(new, getattr(request, which)):
            kept[_NAMES[which]] = _CHANGED  # what was hidden may have moved there
        elif own is not None:
            kept[_NAMES[which]] = own
    return kept


def _equal(new: Any, old: Any) -> bool:
    try:
        return bool(new == old) if isinstance(new, Mapping) else list(new) == list(old)
    except Exception:  # noqa: BLE001 a user's __eq__
        return False


def _is_own(app: Celery, text: Any, value: Any, size: str) -> bool:
    if not isinstance(text, str) or not text:
        return False
    longest = getattr(app.amqp, size)
    if not value and longest:
        return _plain(text) != _EMPTY[type(value)]
    levels = app.conf.get("task_repr_maxlevels", _LEVELS)
    return _plain(text) != _plain(saferepr(value, longest, maxlevels=levels))


def _plain(text: str) -> str:
    """The text without the difference between tuples and lists, which JSON does not keep."""
    return text.replace(",)", ")").translate(_BRACKETS)


def _text(text: Any) -> str:
    return text if isinstance(text, str) else _UNKNOWN
