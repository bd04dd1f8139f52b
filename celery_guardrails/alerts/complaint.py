"""Logs one warning for each key, such as a group, however often the same work fails.

Owns which keys were logged, the last 1,000 of them. It must not know what a key stands for.
"""

from __future__ import annotations

import logging

__all__ = ["Complaints"]

_REMEMBERED = 1000


class Complaints:
    """Logs a warning once for each key in this process.

    Args:
        logger: gets the warnings.
        trace: whether to log the traceback of the exception that is being handled, too.
    """

    def __init__(self, logger: logging.Logger, *, trace: bool = False) -> None:
        self._logger = logger
        self._trace = trace
        self._keys: dict[str, None] = {}

    def once(self, key: str, words: str, *args: object) -> None:
        """Log the warning, unless this key was logged before."""
        if key in self._keys:
            return
        if len(self._keys) >= _REMEMBERED:
            self._keys.pop(next(iter(self._keys)))
        self._keys[key] = None
        self._logger.warning(words, *args, exc_info=self._trace)
