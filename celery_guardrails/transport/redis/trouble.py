"""What Redis refuses for now: it is full, has become a replica, has too few replicas, loads its data, ...

    command ── refused for now ──> logged once ──> wait ──> command again ── taken ──> logged once

Owns which refusals pass. Each time of trouble is logged once when it begins and once when it is over. It must not know
the commands.
"""

from __future__ import annotations

import logging
import re
import threading
import time

__all__ = ["PAUSE", "Trouble", "passing"]

logger = logging.getLogger("celery_guardrails.transport")

PAUSE = 1.0
"""Seconds until a command is sent again to a server that refuses."""

_CODES = (
    "OOM", "NOREPLICAS", "MISCONF", "READONLY", "LOADING", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "BUSY",
    "UNBLOCKED", "NOPERM",
)  # fmt: skip
"""The first words of such answers, as `processCommand` and the checks of scripts in Redis write them. `UNBLOCKED` ends
a wait when the server becomes a replica. `NOPERM` passes when an administrator gives the right back."""
_SAID = re.compile(rf"(?:^|[-:]\s*)({'|'.join(_CODES)})\s")
"""A code at the start of an answer, or behind a script's own words, if the script reports why its command failed."""
_HINTS = {"NOPERM": "; `guardrails doctor` names the right that is missing"}
_SCRIPT = re.compile(r"\s*script: \w+, on @\S+$")
_CLASSES = {
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "TryAgainError": "TRYAGAIN",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "NoPermissionError": "NOPERM",
}
"""redis-py's classes for some of these answers, by name: redis-py cuts the code off their text, and is an extra."""


def passing(error: BaseException) -> str | None:
    """The code of an answer that says that the server refuses for now; `None` for every other error."""
    names = [kind.__name__ for kind in type(error).__mro__]
    if "RedisError" not in names:
        # when kombu connects, it raises its own error from the answer
        inner = error.__cause__ if "OperationalError" in names else None
        return None if inner is None else passing(inner)
    for name in names:
        if name in _CLASSES:
            return _CLASSES[name]
    said = _SAID.search(str(error))
    return said.group(1) if said else None


class Trouble:
    """Logs once that the server refuses, and once that it takes commands again. Safe between threads.

    Args:
        who: the process that waits, as the log names it.
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._refused: set[str] = set()
        self._began = 0.0
        self._lock = threading.Lock()

    def note(self, asked: str, error: BaseException) -> str | None:
        """Note that a command was refused; gives the code, or `None` if the error is not a refusal that passes.

        Args:
            asked: a name for the command; call `over` with the same name.
            error: the answer.
        """
        code = passing(error)
        if code is None:
            return None
        with self._lock:
            first = not self._refused
            self._refused.add(asked)
            if first:
                self._began = time.monotonic()
        if first:
            words, hint = _words(code, error), _HINTS.get(code, "")
            logger.warning("Redis refuses for now (%s): %s waits, and goes on by itself%s", words, self._who, hint)
        return code

    def over(self, asked: str) -> None:
        """Note that the command was taken this time. If no command was refused, it only looks into an empty set."""
        if asked not in self._refused:
            return
        with self._lock:
            self._refused.discard(asked)
            if self._refused:
                return
            lasted = time.monotonic() - self._began
        logger.warning("Redis takes commands again, after %.0f s: %s goes on", lasted, self._who)


def _words(code: str, error: BaseException) -> str:
    text = _SCRIPT.sub("", str(error)).partition(". ")[0].rstrip(". ")
    return text if text.startswith(code) else f"{code} {text}"
