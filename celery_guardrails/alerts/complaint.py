"""What the log says once of each thing, however often it is tried: of a group, a message.

Owns which things were spoken of, the last thousand of them.
"""

from __future__ import annotations

import logging

__all__ = ["Complaints"]

_REMEMBERED = 1000


class Complaints:
    """Logs a warning once for each key in this process.

    Args:
        logger: where to.
        trace: whether to log the traceback of the exception that is being handled, too.
    """

    def __init__(self, logger: logging.Logger, *, trace: bool = False) -> None:
        self._logger = logger
        self._trace = trace
        self._keys: dict[str, None] = {}

    def once(self, key: str, words: str, *args: object) -> None:
        """Say it, if nothing was said under this key."""
        if key in self._keys:
            return
        if len(self._keys) >= _REMEMBERED:
            self._keys.pop(next(iter(self._keys)))
        self._keys[key] = None
        self._logger.warning(words, *args, exc_info=self._trace)
