"""Redacting the parts of a letter that people see, for letters with text that somebody else has written.

Owns which parts of a letter people see. A worker redacts its own failures with its own settings and policy. This module
is for the rest: earlier attempts in a message's header, and letters of older workers, which a guardian redacts once
more before anybody sees them. The message that is replayed stays whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from celery_guardrails.letters.record import Letter, Named
from celery_guardrails.redaction import MASK, Redactor

__all__ = ["LetterRedaction", "redacted"]

_MOST_TEXTS, _LONGEST = 256, 8192
"""So many texts of so many characters are remembered at most: a few MiB."""
_LINES = ("explanation", "owner", "runbook", "version", "environment", "worker")


def redacted(letter: Letter, redactor: Redactor, hide: Callable[[str], str] | None = None) -> Letter:
    """The letter with every secret in its visible parts replaced; the same letter if it holds no secret.

    Args:
        letter: the letter.
        redactor: what to hide.
        hide: its `text`, or what remembers its answers. `None`: its `text`.
    """
    hide = hide or redactor.text
    changes: dict[str, Any] = {name: _some(hide, getattr(letter, name)) for name in _LINES}
    failure, preview = letter.failure, letter.preview
    changes["failure"] = failure.model_copy(
        update={"message": hide(failure.message), "traceback": hide(failure.traceback)}
    )
    changes["preview"] = preview.model_copy(update={"args": hide(preview.args), "kwargs": hide(preview.kwargs)})
    changes["attempts"] = tuple(one.model_copy(update={"message": hide(one.message)}) for one in letter.attempts)
    changes["policy"] = redactor.texts(letter.policy)
    changes["affected"], changes["correlation"] = (
        _named(redactor, letter.affected),
        _named(redactor, letter.correlation),
    )
    changed = {name: value for name, value in changes.items() if value != getattr(letter, name)}
    return letter.model_copy(update=changed) if changed else letter


class LetterRedaction:
    """Redacts letters from the dead-letter queue, by the settings and by the policy in each letter.

    Args:
        names: further names to hide, from the settings.
        patterns: further patterns, from the settings.
    """

    def __init__(self, names: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        self._names = tuple(names)
        self._patterns = tuple(patterns)
        self._usual = Redactor(self._names, self._patterns)
        self._remembered = lru_cache(_MOST_TEXTS)(self._usual.text)

    def __call__(self, letter: Letter, body: bytes) -> tuple[Letter, bytes]:
        """The letter and its JSON without secrets; both unchanged if there is no secret.

        Args:
            letter: the letter.
            body: the letter's JSON. Fields that this version does not know stay.
        """
        redactor = self._redactor(letter)
        shown = redacted(letter, redactor, self._hide if redactor is self._usual else None)
        if shown is letter:
            return letter, body
        raw = json.loads(body)
        for name in type(letter).model_fields:
            value = getattr(shown, name)
            if value is not getattr(letter, name):
                new = shown.model_dump(mode="json", include={name})[name]
                old = raw.get(name)
                raw[name] = {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else new
        return shown, json.dumps(raw).encode()

    def _hide(self, text: str) -> str:
        """The text without secrets. Letters of one outage have the same messages and tracebacks."""
        return self._remembered(text) if len(text) <= _LONGEST else self._usual.text(text)

    def _redactor(self, letter: Letter) -> Redactor:
        own = letter.policy.get("redact")
        names = [name for name in own if isinstance(name, str)] if isinstance(own, list) else []
        return Redactor((*self._names, *names), self._patterns) if names else self._usual


def _some(hide: Callable[[str], str], text: str | None) -> str | None:
    return hide(text) if text else text


def _named(redactor: Redactor, values: Mapping[str, Named]) -> dict[str, Named]:
    """The values that a policy wants in clear, but hidden if a part of the name promises a secret."""
    found: dict[str, Named] = {}
    for name, value in values.items():
        if any(redactor.hides(part) for part in name.split(".")):
            found[name] = MASK
        else:
            found[name] = redactor.text(value) if isinstance(value, str) else tuple(map(redactor.text, value))
    return found
