"""Hiding the user and the password of URLs, in text that somebody else has written.

Owns where that part of a URL ends. It must not know names.
"""

from __future__ import annotations

import re

__all__ = ["hide_userinfo"]

_RUN = re.compile(r"[^\s\"'<>`]+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://")
_NEXT_URL = re.compile(r"[;,|](?=[A-Za-z][A-Za-z0-9+.-]{0,40}://)")
_PORT = re.compile(r"\d{0,5}$")
# URLs of databases and brokers: people write their passwords unencoded, with a blank, a quote or a bracket
_ODD = re.compile(
    r"\b((?:rediss?|sentinel|amqps?|pyamqp|postgres(?:ql)?|mysql|mariadb|mssql|oracle|mongodb)(?:\+\w{1,20})?://"
    r"[^\s:/@\"'<>]{0,100}:)(?!\d{1,5}(?:[/\s\"',;)<>?]|$))([^@\n]{1,200})(?=@[\w\[-])"
)
_HIDING = frozenset(" \t\"'<>`")


def hide_userinfo(text: str, mask: str) -> str:
    """The text with `mask` in place of users and passwords of URLs."""
    if "://" not in text or "@" not in text:
        return text
    text = _RUN.sub(lambda found: _without_userinfo(found[0], mask), text)
    return _ODD.sub(lambda found: _scheme(found[1]) + mask if _HIDING.intersection(found[2]) else found[0], text)


def _scheme(begin: str) -> str:
    return begin[: begin.index("://") + 3]


def _without_userinfo(run: str, mask: str) -> str:
    """The run without user and password of its URLs, up to the last `@`: a password may hold `@` and `/`."""
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
    if scheme[0].lower().endswith(("http://", "https://")) and _is_in_path(user):
        return url
    secret = ":" in user or "%3a" in user.lower() or (len(user) >= 16 and any(char.isdigit() for char in user))
    return f"{url[: scheme.end()]}{mask}{url[end:]}" if secret else url


def _is_in_path(user: str) -> bool:
    """Whether the `@` of a web address stands in its path, behind a host and at most a port."""
    authority, slash, _ = user.partition("/")
    host, _, port = authority.partition(":")
    return bool(slash) and bool(host) and "@" not in authority and bool(_PORT.match(port))
