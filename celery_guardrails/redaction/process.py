"""The redactor of this process, for text that belongs to no task: log lines, errors, a server's answers.

Owns the names and patterns of all applications in the process together: a log line may be about any of them. A text
about a task has a redactor of its own, with the names of the task's policy.
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
    """Hide further names and patterns from now on, in every thread of this process.

    Args:
        names: as for `Redactor`.
        patterns: as for `Redactor`; they must compile.
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
