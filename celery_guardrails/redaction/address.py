"""Addresses with a user and a password: whether they are parsed as they are meant, and how they are shown.

If a password holds `@`, `/`, `:` or `[` and is not percent-encoded, a parser cuts it in two: one part becomes a host or
a port, and every error names it. Owns finding such an address before a library parses it. Each library has rules of its
own: kombu's are those of `http` URLs, SQLAlchemy's are in `database_problem`.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["ENCODE", "broker_problem", "database_problem", "service_problem", "shown_address"]

ENCODE = "percent-encode what is special in them: write %40 for @, %2F for /, %3A for a colon, %23 for #, %5B for ["
"""What to write in place of an address that cannot be read."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,40})://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BLANK = re.compile(r"\s")
_UNREADABLE = "cannot be read: its user or password holds a character that is special in a URL"


def shown_address(address: str) -> str:
    """What people may see of an unreadable address: only its scheme, because nobody knows where its password ends."""
    scheme = _SCHEME.match(address)
    return f"{scheme[1]}://***" if scheme else "***"


def broker_problem(address: str) -> str | None:
    """Why kombu cannot parse a broker's or a result backend's address as it is meant; `None`: it can.

    Args:
        address: one URL, or several URLs with `;` between them.
    """
    parts = address.split(";")
    for part in parts:
        scheme = _SCHEME.match(part)
        if scheme is None:
            if "://" in part:
                return "does not begin with a scheme such as redis:// or amqp://"
            if len(parts) > 1 and "@" in part:
                return _UNREADABLE
            continue
        if problem := _network_problem(part[scheme.end() :]):
            return problem
    return None


def database_problem(address: str) -> str | None:
    """Why SQLAlchemy cannot parse a database's address as it is meant; `None`: it can."""
    if _CONTROL.search(address):
        return "has a line break or another control character in it"
    scheme = _SCHEME.match(address)
    if scheme is None or scheme[1].partition("+")[0] == "sqlite":
        return None  # no user and no password; whoever opens it reports the missing scheme
    rest = address[scheme.end() :]
    if rest.rfind("@") < rest.find("?"):  # else the question mark is a part of the password
        rest = rest.partition("?")[0]
    host = re.split(r"[/?]", rest.rpartition("@")[2])[0]
    if rest.count("@") > 1 or _BLANK.search(rest):
        return _UNREADABLE
    return _port_problem(rest, host)


def service_problem(address: str) -> str | None:
    """What is wrong with the address of a web service, such as a webhook; `None`: nothing."""
    if _BLANK.search(address) or _CONTROL.search(address):
        return "has a blank or a line break in it"
    scheme = _SCHEME.match(address)
    if scheme is None or scheme[1].lower() not in ("http", "https"):
        return "does not begin with https:// or http://"
    if problem := _network_problem(address[scheme.end() :]):
        return problem
    return None if urlsplit(address).hostname else "names no host"


def _network_problem(rest: str) -> str | None:
    if _CONTROL.search(rest):
        return "has a line break or another control character in it"
    try:
        read = urlsplit(f"http://{rest}")
        _ = read.port
    except ValueError:  # its message quotes the text that it took for a port
        return _UNREADABLE
    authority = re.split(r"[/?#]", rest)[0]
    beyond = rest[len(authority) :].partition("?")[0]
    if "#" in authority + beyond and "@" in (authority + beyond).partition("#")[2]:
        return _UNREADABLE  # the text behind the sign is not a host
    return _UNREADABLE if ":" in authority and "@" not in authority and "@" in beyond else None


def _port_problem(rest: str, host: str) -> str | None:
    if not _bad_port(host):
        return None
    # behind a readable user and password, a text that is not a port is a mistyped port
    plain = (
        "@" in rest
        and "[" not in host
        and "]" not in host
        and host.count(":") == 1
        and host.rpartition(":")[2][:1].isdigit()
    )
    return "has a port that is no number" if plain else _UNREADABLE


def _bad_port(host: str) -> bool:
    _, bracket, port = host.rpartition("]")
    if bool(bracket) != ("[" in host):
        return True
    _, colon, port = (port if bracket else host).rpartition(":")
    return bool(colon) and bool(port) and not port.isdigit()
