"""Logs the same warning once for each key, such as a group, however often the same work fails.

Owns which warnings were logged of which keys, the last 1,000 of them. It must not know what a key stands for.
"""

from __future__ import annotations

import logging

__all__ = ["Complaints"]

_REMEMBERED = 1000


class Complaints:
    """Logs each warning once for each key in this process.

    Args:
        logger: gets the warnings.
        trace: whether to log the traceback of the exception that is being handled, too.
    """

    def __init__(self, logger: logging.Logger, *, trace: bool = False) -> None:
        self._logger = logger
        self._trace = trace
        self._logged: dict[tuple[str, str], None] = {}

    def once(self, key: str, words: str, *args: object) -> None:
        """Log the warning, unless the same `words` were logged of this key before; a graver warning is another one."""
        warning = words, key
        if warning in self._logged:
            return
        if len(self._logged) >= _REMEMBERED:
            self._logged.pop(next(iter(self._logged)))
        self._logged[warning] = None
        self._logger.warning(words, *args, exc_info=self._trace)
