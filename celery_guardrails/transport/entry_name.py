"""The names of the spool's files: the time of the entry, and the process that writes or ships it.

    TIME-PID-RANDOM.APP.json     .writing-PID@HOST     .shipping-PID@HOST     .unreadable

Owns these names and their meaning. It must not know what is in a file.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from datetime import datetime

from celery_guardrails.clock import from_epoch
from celery_guardrails.transport.disk import app_slug, slug

__all__ = ["UNREADABLE", "Naming", "is_leftover", "put_at", "shipping", "writing"]

UNREADABLE = ".unreadable"

_CLAIM_AGE = 60.0
"""Seconds after which a claim counts as abandoned, even if its process lives: a publish takes a few seconds."""
_LEFTOVER_AGE = 60.0
_ORPHAN_AGE = 3600.0
_HELD = re.compile(r"(?P<entry>.+\.json)\.(?P<how>writing|shipping)-(?P<pid>\d+)@(?P<host>.*)")


class Naming:
    """The names of one application's entries.

    Args:
        app: the application's name.
    """

    def __init__(self, app: str) -> None:
        self._ending = f".{app_slug(app)}.json"

    def new(self) -> str:
        """A name that no other entry has, and that sorts behind all earlier names."""
        return f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}{self._ending}"

    def entry_of(self, name: str) -> str | None:
        """The name of the entry in a file, shipped just now or not; `None`: it is not an entry of this application."""
        match = _HELD.fullmatch(name)
        if match is not None:
            name = match["entry"] if match["how"] == "shipping" else ""
        return name if name.endswith(self._ending) and name[:20].isdigit() else None

    def is_free(self, name: str, age: Callable[[], float]) -> bool:
        """Whether nobody ships the entry in a file; `age`: seconds since it was claimed, called only if it was."""
        if self.entry_of(name) is None:
            return False
        match = _HELD.fullmatch(name)
        return match is None or age() > _CLAIM_AGE or _is_dead(match["pid"], match["host"])


def writing(entry: str) -> str:
    """The name of an entry while this process writes it."""
    return f"{entry}.writing-{_me()}"


def shipping(entry: str) -> str:
    """The name of an entry while this process ships it."""
    return f"{entry}.shipping-{_me()}"


def is_leftover(name: str, age: Callable[[], float]) -> bool:
    """Whether a file's writer died before it finished; `age`: seconds since the last change, called only if needed."""
    match = _HELD.fullmatch(name)
    if match is None or match["how"] != "writing":
        return False
    since = age()
    return since > _ORPHAN_AGE or (since > _LEFTOVER_AGE and _is_dead(match["pid"], match["host"]))


def put_at(entry: str) -> datetime:
    """When an entry was written."""
    return from_epoch(int(entry.partition("-")[0]) / 1e9)


def _me() -> str:
    return f"{os.getpid()}@{slug(socket.gethostname())}"


def _is_dead(pid: str, host: str) -> bool:
    """Whether a process is known to have ended; `False` for every process of another machine."""
    if host != slug(socket.gethostname()):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
