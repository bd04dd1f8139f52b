"""A sender's own text for its arguments: `argsrepr` and `kwargsrepr`, Celery's way to hide secrets.

Owns two steps. It puts the sender's text in the place of our preview, without the values that are hidden by their
names. And it hides a value that a policy wants in clear if the sender's text does not show it. Whether the sender or
Celery wrote a text is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from celery_guardrails.letters.record import Named, Preview, values_of
from celery_guardrails.redaction import MASK

__all__ = ["SenderText"]

_SHORTEST_CUT = 3
_CUT = "..."


@dataclass(frozen=True, slots=True)
class SenderText:
    """The sender's own texts for positional and keyword arguments; `None`: the sender hides nothing there."""

    args: str | None = None
    kwargs: str | None = None

    def over(self, preview: Preview, secrets: Iterable[Any], limit: int) -> Preview:
        """The preview with the sender's texts in place of ours.

        Args:
            preview: ours.
            secrets: values that must not be shown, though the sender's text may hold them.
            limit: characters kept of each text.
        """
        if self.args is None and self.kwargs is None:
            return preview
        hidden = sorted({text for secret in secrets for text in _spellings(secret)}, key=len, reverse=True)
        changed: dict[str, Any] = {"truncated": preview.truncated}
        for name, text in (("args", self.args), ("kwargs", self.kwargs)):
            if text is not None:
                shown = _without(text, hidden)
                changed[name] = shown if len(shown) <= limit else f"{shown[:limit]}..."
                changed["truncated"] = changed["truncated"] or len(shown) > limit
        return preview.model_copy(update=changed)

    def seen(self, values: Mapping[str, Named], by_keyword: Collection[str]) -> dict[str, Named]:
        """The values that a policy wants in clear; hidden if the sender's text does not hold them.

        Args:
            values: by argument name; a dotted name for a value inside an argument.
            by_keyword: the names of the arguments that were sent by keyword.
        """
        shown: dict[str, Named] = {}
        for name, value in values.items():
            text = self.kwargs if name.partition(".")[0] in by_keyword else self.args
            kept = dict.fromkeys(one if text is None or _find(one).search(text) else MASK for one in values_of(value))
            shown[name] = next(iter(kept)) if len(kept) == 1 else tuple(kept)
        return shown


def _without(text: str, hidden: Iterable[str]) -> str:
    for secret in hidden:
        if len(secret) <= len(text):
            text = _find(secret).sub(MASK, text)
        if _CUT in text and len(secret) > _SHORTEST_CUT:
            text = _without_cut(text, secret)
    return text


def _without_cut(text: str, secret: str) -> str:
    """Without the beginning of a secret before an ellipsis: Celery cuts a long text in the middle of a value.

    The time grows only with the text, by the algorithm of Knuth, Morris and Pratt: a secret may be a whole file.
    """
    begin = secret[: len(text)]
    falls = _falls(begin)
    kept: list[str] = []
    position = matched = 0
    for place, char in enumerate(text):
        length = falls[matched - 1] if matched == len(secret) else matched
        if length > _SHORTEST_CUT and place - length >= position and text.startswith(_CUT, place):
            kept += [text[position : place - length], MASK]
            position = place
        while matched and (matched == len(begin) or begin[matched] != char):
            matched = falls[matched - 1]
        if begin[matched] == char:
            matched += 1
    return "".join([*kept, text[position:]])


def _falls(word: str) -> list[int]:
    """For each beginning of a word, the length of its longest end that is also a beginning of the word."""
    falls = [0] * len(word)
    length = 0
    for place in range(1, len(word)):
        while length and word[place] != word[length]:
            length = falls[length - 1]
        if word[place] == word[length]:
            length += 1
        falls[place] = length
    return falls


def _find(value: str) -> re.Pattern[str]:
    """A pattern that finds the value only where it stands by itself: 1 is not found in 100."""
    return re.compile(rf"(?<!\w){re.escape(value)}(?!\w)")


def _spellings(secret: Any) -> set[str]:
    if secret is None or isinstance(secret, bool):
        return set()
    try:
        return {text for text in (str(secret), repr(secret)) if text}
    except Exception:  # noqa: BLE001 a user's __repr__
        return set()
