"""Secrets in text that somebody else has written: an exception's message, a traceback's line, a JSON or query string.

Owns how a name and its value are found in text (`password=x`, `"token": "x"`, `Authorization: Bearer x`,
`--password x`, `<token>x</token>`, `("token", "x")`). The time of each step is proportional to the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from celery_guardrails.redaction.library import hide_in_errors
from celery_guardrails.redaction.name import is_never_prose
from celery_guardrails.redaction.pattern import hide_patterns
from celery_guardrails.redaction.userinfo import hide_userinfo
from celery_guardrails.redaction.value import end_of_value, is_code, is_plain, without_literals

__all__ = ["hide_in_text"]

_EQUALS = re.compile(r"(?<![\w.-])-{0,2}([A-Za-z_][\w.\[\]-]{0,80})(=|%3[Dd])(?=[^=\s])")
_QUOTED_KEY = re.compile(r"(\\{0,8}[\"'])([A-Za-z_][\w .\[\]-]{0,80})\1\s{0,8}(:|=>|=(?!=))\s{0,8}")
_SUBSCRIPT = re.compile(r"\[(\\{0,8}[\"'])([A-Za-z_][\w .-]{0,80})\1\]\s{0,8}=(?!=)\s{0,8}")
_COLON = re.compile(
    r"(?<![\w.-])((?:(?:api|secret|access|private|encryption|signing) )?[A-Za-z_][\w-]{0,80})(: {0,2}| {0,2}=> {0,2})"
    r"(?=\S)",
    re.I,
)
_SPACED = re.compile(r"(?<![\w.-])([A-Za-z_][\w.]{0,80})(?:: {0,2}[A-Za-z_][\w.\[\]]{0,60})? {1,4}= {1,4}(?=[^=\s])")
_OPTION = re.compile(r"(?<![\w-])--([A-Za-z][\w-]{0,60})(?:[ \t]+|[\"'],\s{0,4})(?=[^\s-])")
_PAIR = re.compile(r"([(\[]\s{0,4})[bBuU]?(\\{0,8}[\"'])([A-Za-z_][\w .-]{0,80})\2,\s{0,4}(?=\S)")
_TAG = re.compile(r"<([A-Za-z_][\w.:-]{0,80})>([^<]{1,2000})(?=</)")
_REST = re.compile(r"[^\s&;,)(\]\[}{<>\"'.:!?|\\@/]+[^\s&;,)\]}<>\"']*")


def hide_in_text(text: str, hides: Callable[[str], bool], mask: str, patterns: Iterable[re.Pattern[str]] = ()) -> str:
    """The text without secrets.

    Args:
        text: what somebody has written.
        hides: whether a value with this name is hidden.
        mask: what stands in a secret's place.
        patterns: further patterns; a text that matches one is hidden.
    """
    for pattern in patterns:
        text = pattern.sub(lambda _: mask, text)
    text = hide_patterns(hide_userinfo(text, mask), mask)
    text = hide_in_errors(text, hides, mask)
    # each pattern is costly, the search for its sign is cheap, and most texts have few signs
    if ("'" in text or '"' in text) and (":" in text or "=" in text):
        text = _by_name(text, _QUOTED_KEY, 2, hides, mask)
        if "]" in text:
            text = _by_name(text, _SUBSCRIPT, 2, hides, mask)
    if "," in text and ("'" in text or '"' in text):
        text = _by_name(text, _PAIR, 3, hides, mask)
    if "=" in text or "%3D" in text or "%3d" in text:
        text = _by_name(text, _EQUALS, 1, hides, mask)
        if " = " in text:
            text = _by_name(text, _SPACED, 1, hides, mask)
    if ":" in text or "=>" in text:
        text = _by_name(text, _COLON, 1, hides, mask)
    if "--" in text:
        text = _by_name(text, _OPTION, 1, hides, mask)
    if "</" in text:
        text = _TAG.sub(lambda found: f"<{found[1]}>{mask}" if hides(found[1]) else found[0], text)
    return text


def _by_name(text: str, pattern: re.Pattern[str], group: int, hides: Callable[[str], bool], mask: str) -> str:
    """The text with the value behind each hidden name replaced."""
    kept: list[str] = []
    position = start = 0
    while found := pattern.search(text, start):
        start = found.end()
        if not hides(found[group]):
            # the part that looks like an annotation may be a name: "ValueError: password = x"
            start = found.end(group) if pattern is _SPACED else start
            continue
        end, shown = _shown(text, start, found, found[group], mask)
        if shown is not None:
            kept += [text[position:start], shown]
            position = end
        start = max(start, end)
    return "".join(kept) + text[position:] if kept else text


def _shown(text: str, start: int, found: re.Match[str], name: str, mask: str) -> tuple[int, str | None]:
    """Where the value ends, and what stands in its place; `None`: the value stays."""
    if text.startswith(mask, start):
        # somebody has hidden it already; text directly behind the mask belongs to the value
        rest = _REST.match(text, start + len(mask))
        return (rest.end(), mask) if rest else (start + len(mask), None)
    pattern = found.re
    end = end_of_value(text, start, pattern is _COLON, name)
    value = text[start:end]
    if end == start or value.strip("*'\"") in ("", mask) or is_plain(name, value):
        return end, None
    if pattern in (_SPACED, _SUBSCRIPT) and is_code(value):
        shown = without_literals(value, mask, every=False) if "(" in value else value
        return end, shown if shown != value else None
    if pattern is _COLON and not is_never_prose(name) and text[: found.start()].lower().endswith("unexpected "):
        return end, None
    if pattern is _PAIR and not (is_never_prose(name) or _is_pair(text, found, value)):
        return end, None
    return end, mask


def _is_pair(text: str, found: re.Match[str], value: str) -> bool:
    """Whether a match is in a list of pairs, or its value looks like a secret; `["card", "sepa"]` is no such pair."""
    before = text[max(0, found.start() - 4) : found.start()].rstrip()
    return before.endswith(("[", "),", "],", "(")) or not value.strip("bBuU\"'").isalpha()
