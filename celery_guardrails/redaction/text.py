"""Secrets in text that somebody else has written: an exception's message, a traceback's line, a JSON or query string.

Owns how a name and its value are found in text (`password=x`, `"token": "x"`, `Authorization: Bearer x`,
`--password x`, `<token>x</token>`) and the part of a URL that names a user and a password. Each step takes time in
proportion to the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from celery_guardrails.redaction.name import squeeze
from celery_guardrails.redaction.pattern import hide_patterns

__all__ = ["hide_in_text"]

_RUN = re.compile(r"[^\s\"'<>`]+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://")
_NEXT_URL = re.compile(r"[;,|](?=[A-Za-z][A-Za-z0-9+.-]{0,40}://)")
_EQUALS = re.compile(r"(?<![\w.-])-{0,2}([A-Za-z_][\w.\[\]-]{0,80})(=|%3D)(?=[^=\s])")
_QUOTED_KEY = re.compile(r"(\\{0,8}[\"'])([A-Za-z_][\w .\[\]-]{0,80})\1\s{0,8}(:|=>|=)\s{0,8}")
_COLON = re.compile(r"(?<![\w.-])([A-Za-z_][\w-]{0,80})(: {0,2}| {0,2}=> {0,2})(?=\S)")
_SPACED = re.compile(r"(?<![\w.-])([A-Za-z_][\w.]{0,80})( {1,4}= {1,4})(?=[^=\s])")
_OPTION = re.compile(r"(?<![\w-])--([A-Za-z][\w-]{0,60})(?:[ \t]+|[\"'],\s{0,4})(?=[^\s-])")
_TAG = re.compile(r"<([A-Za-z_][\w.:-]{0,80})>([^<]{1,2000})(?=</)")
_CODE = re.compile(r"[A-Za-z_][\w.]*[(\[{]|[A-Za-z_]+(?:\.[A-Za-z_]+)+$")
_BARE = re.compile(r"[^\s&;,)\]}<>\"']+")
_VALUE = re.compile(r"[^\s,)\]}]+")
_PASSWORDS = re.compile("passw|passphrase|pwd|secret|apikey|privatekey|accesskey")
# what validators and servers begin with: "password: must be longer", "password: This field is required"
_PROSE = (
    "a an and any are at blank can cannot check did do does empty ensure enter error expected failed field for has "
    "have if in incorrect input invalid is it may mismatch missing must need needs no none not null of ok only or "
    "please rejected required same should string the this to too true false unknown use value was were when with wrong "
    "yes you your str bytes int"
)
_COMPLAINTS = frozenset(_PROSE.split())
_CLOSING = {"{": "}", "[": "]", "(": ")"}
_HEADERS = frozenset(("authorization", "proxyauthorization", "cookie", "setcookie"))


def hide_in_text(text: str, hides: Callable[[str], bool], mask: str, patterns: Iterable[re.Pattern[str]] = ()) -> str:
    """The text without secrets.

    Args:
        text: what somebody has written.
        hides: whether a value under this name is hidden.
        mask: what stands in a secret's place.
        patterns: further patterns; what one of them finds is hidden.
    """
    for pattern in patterns:
        text = pattern.sub(lambda _: mask, text)
    if "://" in text and "@" in text:
        text = _RUN.sub(lambda found: _without_userinfo(found[0], mask), text)
    text = hide_patterns(text, mask)
    # each pattern costs about as much as a look for its sign is cheap, and most texts have few signs
    if ("'" in text or '"' in text) and (":" in text or "=" in text):
        text = _by_name(text, _QUOTED_KEY, 2, hides, mask)
    if "=" in text or "%3D" in text:
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


def _without_userinfo(run: str, mask: str) -> str:
    """Without user and password of the URLs in it, up to the last `@`: a password may have `@` and `/` in it."""
    pieces = []
    position = 0
    for separator in [*(found.start() for found in _NEXT_URL.finditer(run)), len(run)]:
        pieces.append(_without_user(run[position:separator], mask))
        position = separator
    return "".join(pieces)


def _without_user(url: str, mask: str) -> str:
    scheme = _SCHEME.search(url)
    end = url.rfind("@")
    if scheme is None or end < scheme.end():
        return url
    user = url[scheme.end() : end]
    if not user.partition(":")[2].strip("*") and ":" in user:
        return url  # somebody has hidden it already
    secret = ":" in user or "%3a" in user.lower() or (len(user) >= 16 and any(char.isdigit() for char in user))
    return f"{url[: scheme.end()]}{mask}{url[end:]}" if secret else url


def _by_name(text: str, pattern: re.Pattern[str], group: int, hides: Callable[[str], bool], mask: str) -> str:
    """With the value after each name that is hidden replaced."""
    kept: list[str] = []
    position = start = 0
    while found := pattern.search(text, start):
        start = found.end()
        if not hides(found[group]):
            continue
        end = _end_of_value(text, start, pattern is _COLON, found[group])
        if pattern is _SPACED and _is_code(text[start:end]):
            continue
        hidden = text.startswith(mask, start) or not text[start:end].strip("*'\"")
        if end > start and not hidden:
            kept += [text[position:start], mask]
            position = end
        start = max(start, end)
    return "".join(kept) + text[position:] if kept else text


def _end_of_value(text: str, start: int, is_loose: bool, name: str) -> int:
    """Where the value that begins at `start` ends; `start` itself where it is no value."""
    opening = re.compile(r"[bBuUrRfF]{0,2}(\\{0,8}[\"'])").match(text, start)
    if opening:
        return _end_of_quoted(text, opening.end(), opening[1])
    if not is_loose and text[start : start + 1] in _CLOSING:
        return _end_of_container(text, start)
    if is_loose and re.sub(r"[^a-z]", "", name.lower()) in _HEADERS:
        line = text.find("\n", start)
        return len(text) if line < 0 else line
    found = (_VALUE if is_loose else _BARE).match(text, start)
    if not found:
        return start
    # after a colon stands prose as often as a value: "token: expected a name"
    return start if is_loose and not _is_value(found[0]) and not _is_said(name, found[0]) else found.end()


def _is_value(word: str) -> bool:
    return len(word) >= 16 or any(char.isdigit() for char in word) or any(char in "!$%^&*+=#@~/" for char in word)


def _is_code(value: str) -> bool:
    """Whether what stands after ` = ` is a program's, as tracebacks show it, and no value: `read(x)`, `user`."""
    quoted = value[-1:] in ("'", '"')
    return not quoted and (bool(_CODE.match(value)) or not _is_value(value))


def _is_said(name: str, word: str) -> bool:
    """Whether it is a password, though it looks like a word: after such a name, what is no word of a complaint."""
    return bool(_PASSWORDS.search(squeeze(name))) and word.lower().strip(".,;:!?'\"") not in _COMPLAINTS


def _end_of_quoted(text: str, start: int, quote: str) -> int:
    """After the closing quote; the text's end where it was cut off."""
    position = start
    while (end := text.find(quote, position)) >= 0:
        before = len(text[position:end]) - len(text[position:end].rstrip("\\"))
        if len(quote) > 1 or before % 2 == 0:
            return end + len(quote)
        position = end + 1
    return len(text)


def _end_of_container(text: str, start: int) -> int:
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
