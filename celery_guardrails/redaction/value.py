"""A value behind a name in text: where it ends, and whether it is a value at all.

Owns quotes, brackets, calls and bare words, and the text that may stand in a value's place: prose, a program's code,
`None`, a count. It must not know which names are hidden, only which kind of value a name lets expect.
"""

from __future__ import annotations

import re

from celery_guardrails.redaction.name import is_counted, is_never_prose

__all__ = ["end_of_container", "end_of_value", "is_code", "is_plain", "is_secretive", "without_literals"]

_BARE = re.compile(r"[^\s&;,)\]}<>\"']+")
_VALUE = re.compile(r"(?:[^\s,)\]}\\]|\\(?![rn]))+")
_OPENING = re.compile(r"[bBuUrRfF]{0,2}(\\{0,8}[\"'])")
_CALL = re.compile(r"[A-Za-z_][\w.]{0,200}(?=[(\[{])")
_CODE = re.compile(r"[A-Za-z_][\w.]*[(\[{]|[A-Za-z_]+(?:\.[A-Za-z_]+)+$")
_LINE = re.compile(r"\n|\\[rn]")
_LITERAL = re.compile(r"""[bBuUrRfF]{0,2}("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
_CLOSING = {"{": "}", "[": "]", "(": ")"}
_HEADERS = ("authorization", "cookie")
# the first words of messages of validators and servers: "password: must be longer", "password: This field is required"
_PROSE = (
    "a an and any are at blank can cannot check did do does empty ensure enter error expected expired failed field for "
    "has have if in incorrect input invalid is it may mismatch missing must need needs no none not null of ok only or "
    "please rejected required same should string the this to too true false unknown use value was were when with wrong "
    "yes you your str bytes int"
)
_COMPLAINTS = frozenset(_PROSE.split())
_STATES_TEXT = (
    "none null nil true false undefined empty missing absent invalid expired unknown required declined "
    "rejected on off yes no "
)
_STATES = frozenset(_STATES_TEXT.split())
_SIGNAL = re.compile(r"SIG[A-Z]{2,8}\d?")
_COUNT = re.compile(r"\d{1,3}")


def end_of_value(text: str, start: int, is_loose: bool, name: str) -> int:
    """Where the value that begins at `start` ends; `start` itself if there is no value.

    Args:
        text: what somebody has written.
        start: the position behind the sign that follows the name.
        is_loose: whether the sign is a colon: prose stands behind a colon as often as a value.
        name: the name before it.
    """
    opening = _OPENING.match(text, start)
    if opening:
        return _end_of_quoted(text, opening.end(), opening[1])
    if is_loose and re.sub(r"[^a-z]", "", name.lower()).endswith(_HEADERS):
        line = _LINE.search(text, start)
        return line.start() if line else len(text)
    if text[start : start + 1] in _CLOSING:
        return _end_of_opened(text, start, is_loose, name)
    call = _CALL.match(text, start)
    if call and text[call.end()] != "{":
        end = end_of_container(text, call.end())
        return end if not is_loose or any(quote in text[start:end] for quote in "\"'") else start
    found = (_VALUE if is_loose else _BARE).match(text, start)
    if not found:
        return start
    # prose stands behind a colon as often as a value: "token: expected a name"
    return start if is_loose and not _is_said(name, found[0]) else found.end()


def is_plain(name: str, value: str) -> bool:
    """Whether a value is never a secret: `None`, an empty text, a state, a count, a sign that a parser names."""
    bare = value.strip("\"'.,;:!?")
    if value[:1] in ("'", '"') and len(value) > 1 and value[-1:] == value[:1]:
        inner = value[1:-1]
        return len(inner) <= 2 and not any(char.isalnum() for char in inner)
    return bare.lower() in _STATES or bool(_SIGNAL.fullmatch(bare)) or bool(is_counted(name) and _COUNT.fullmatch(bare))


def is_code(value: str) -> bool:
    """Whether the text behind ` = ` is code, as tracebacks show it, and not a value: `read(x)`, `user`."""
    quoted = value[-1:] in ("'", '"')
    return not quoted and (bool(_CODE.match(value)) or not is_secretive(value))


def is_secretive(word: str) -> bool:
    """Whether a word is hardly prose: it is long, or has a digit or a special character."""
    return len(word) >= 16 or any(char.isdigit() for char in word) or any(char in "!$%^&*+=#@~/" for char in word)


def without_literals(code: str, mask: str, every: bool) -> str:
    """The code without its text literals: without `every`, only literals that are hardly prose are hidden."""
    return _LITERAL.sub(lambda found: mask if every or is_secretive(found[1][1:-1]) else found[0], code)


def end_of_container(text: str, start: int) -> int:
    """The position behind the bracket that closes the one at `start`; the text's end if the text was cut off."""
    expected: list[str] = []
    position = start
    while position < len(text):
        char = text[position]
        if char in "\"'":
            position = _end_of_quoted(text, position + 1, char)
            continue
        if char in _CLOSING:
            expected.append(_CLOSING[char])
        elif expected and char == expected[-1]:
            expected.pop()
            if not expected:
                return position + 1
        position += 1
    return len(text)


def _end_of_opened(text: str, start: int, is_loose: bool, name: str) -> int:
    """The end of a container. Behind a colon it must hold a quoted text, or have a name that prose does not follow."""
    end = end_of_container(text, start)
    if not is_loose:
        return end
    inner = text[start:end]
    if any(quote in inner for quote in "\"'"):
        return end
    return end if is_never_prose(name) and is_secretive(inner[1:-1]) and " " not in inner else start


def _is_said(name: str, word: str) -> bool:
    """Whether the text behind a colon is a value: no plain word; behind `password` and its like, no complaint."""
    if is_never_prose(name):
        return word.lower().strip(".,;:!?'\"") not in _COMPLAINTS
    return is_secretive(word) and not word.startswith("<")


def _end_of_quoted(text: str, start: int, quote: str) -> int:
    """The position behind the closing quote; the text's end if the text was cut off."""
    position = start
    while (end := text.find(quote, position)) >= 0:
        before = len(text[position:end]) - len(text[position:end].rstrip("\\"))
        if len(quote) > 1 or before % 2 == 0:
            return end + len(quote)
        position = end + 1
    return len(text)
