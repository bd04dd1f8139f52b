"""The redactor of this process, for text that belongs to no task: log lines, errors, what a server answers.

Owns what the settings of the process's applications want hidden, all together: a line of the log may speak of any of
them. A text about a task has that task's own redactor, which its policy adds to.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from celery_guardrails.redaction.redactor import Redactor

__all__ = ["hide_also", "shown", "shown_data"]

_lock = threading.Lock()
_names: frozenset[str] = frozenset()
_patterns: tuple[str, ...] = ()
_redactor = Redactor()


def hide_also(names: Iterable[str], patterns: Iterable[str]) -> None:
    """Hide these, too, from now on and in every thread of this process.

    Args:
        names: as `Redactor` takes them.
        patterns: likewise; regular expressions that compile.
    """
    global _names, _patterns, _redactor
    with _lock:
        every, all_patterns = _names.union(names), tuple(dict.fromkeys((*_patterns, *patterns)))
        if (every, all_patterns) != (_names, _patterns):
            _names, _patterns = every, all_patterns
            _redactor = Redactor(every, all_patterns)


def shown(text: str) -> str:
    """The text as people may see it."""
    return _redactor.text(text)


def shown_data(data: Any) -> Any:
    """JSON-like data with each text in it as people may see it."""
    return _redactor.texts(data)
