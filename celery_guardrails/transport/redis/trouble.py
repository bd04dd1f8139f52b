"""What Redis refuses for now: it is full, has become a replica, has too few of them, loads its data, ...

    asked ── refused, and the reason passes ──> said once ──> waited ──> asked again ── taken ──> said once

Owns which refusals pass, and that each time of trouble is logged once when it begins and once when it is over. It
must not know what was asked.
"""

from __future__ import annotations

import logging
import re
import threading
import time

__all__ = ["PAUSE", "Trouble", "passing"]

logger = logging.getLogger("celery_guardrails.transport")

PAUSE = 1.0
"""Seconds until a server that refuses is asked again."""

_CODES = (
    "OOM", "NOREPLICAS", "MISCONF", "READONLY", "LOADING", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "BUSY",
    "UNBLOCKED", "NOPERM",
)  # fmt: skip
"""How the answers begin, as `processCommand` and the scripts' own checks in Redis write them. `UNBLOCKED` ends a wait
when the server becomes a replica, `NOPERM` passes when an administrator gives a right back."""
_SAID = re.compile(rf"(?:^|[-:]\s*)({'|'.join(_CODES)})\s")
"""At the start, or, where a script reports what its command was refused with, behind its own words."""
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
"""redis-py's classes for some of them, by name: it cuts the code off their text, and may not be installed."""


def passing(error: BaseException) -> str | None:
    """The code of an answer that says that the server refuses for now; `None` for every other error."""
    names = [kind.__name__ for kind in type(error).__mro__]
    if "RedisError" not in names:
        # kombu raises its own error from it when it connects
        inner = error.__cause__ if "OperationalError" in names else None
        return None if inner is None else passing(inner)
    for name in names:
        if name in _CLASSES:
            return _CLASSES[name]
    said = _SAID.search(str(error))
    return said.group(1) if said else None


class Trouble:
    """Says once that the server refuses, and once that it does not any more. Safe between threads.

    Args:
        who: who waits, as the log names it.
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._refused: set[str] = set()
        self._began = 0.0
        self._lock = threading.Lock()

    def note(self, asked: str, error: BaseException) -> str | None:
        """Note that something was refused; gives the code, or `None` where the error is none that passes.

        Args:
            asked: what was asked, which `over` names again.
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
        """Note that the same was not refused this time. Costs a look at an empty set where nothing was refused."""
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
