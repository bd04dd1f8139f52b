"""Hiding the secrets in a Sentry event of a dead letter, wherever in the event they are.

Owns which parts of an event are Sentry's own and stay: ids, times, the SDK's facts. All other parts are searched, by
name and by value. It must not know who makes the event (`sentry.py`). Sentry's own scrubber knows only names, and few;
it runs afterwards as usual.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from celery_guardrails.letters.record import Preview
from celery_guardrails.redaction import MASK, Redactor

__all__ = ["event_processor"]

logger = logging.getLogger("celery_guardrails.worker")

_FRAMEWORKS = ("celery_guardrails", "celery", "billiard", "kombu", "sentry_sdk")
_OWN = frozenset(
    ("event_id", "timestamp", "start_timestamp", "received", "platform", "level", "type", "release", "dist",
     "environment", "sdk", "modules", "debug_meta", "measurements", "fingerprint", "_meta")
)  # fmt: skip
"""Parts of an event that Sentry needs, and that hold neither a task's arguments nor its texts."""
_DEEPEST = 20
_MOST = 50_000
"""How many values of an event are searched; further ones are replaced by `...`."""


def event_processor(redactor: Redactor, preview: Preview) -> Callable[[Any, Any], Any]:
    """An event processor for Sentry that hides secrets; it never raises, and drops no event.

    Args:
        redactor: what to hide.
        preview: the task's arguments as people may see them, in place of those that Sentry's integration adds.
    """

    def process(event: Any, hint: Any) -> Any:
        extra = event.get("extra")
        job = extra.get("celery-job") if isinstance(extra, dict) else None
        if isinstance(job, dict):
            # without the parameters' names nobody knows which of them is the password
            for which, shown in (("args", preview.args), ("kwargs", preview.kwargs)):
                if which in job and not isinstance(job[which], str):
                    job[which] = shown
        look = _Look(redactor)
        for part in [part for part in event if part not in _OWN]:
            try:
                if part in ("exception", "threads") and not isinstance(event[part], (dict, type(None))):
                    raise TypeError(f"a {type(event[part]).__name__}")
                event[part] = look.over(event[part], part if isinstance(event[part], str) else None)
            except Exception:  # an event of a shape that this version does not know
                logger.warning("the part %s of an event is not sent to Sentry", part, exc_info=True)
                event.pop(part)
        return event

    return process


class _Look:
    """Looks over one event, and counts its values to stop at the limit."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._left = _MOST

    def over(self, value: Any, name: object = None, depth: int = _DEEPEST) -> Any:
        """The value without its secrets."""
        self._left -= 1
        if value is None or isinstance(value, (bool, float, datetime)):
            return MASK if isinstance(value, float) and self._redactor.hides(name) else value
        if depth <= 0 or self._left <= 0:
            return "..."
        if isinstance(value, dict) and not self._redactor.hides(name):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple)) and not self._redactor.hides(name):
            return self._items(value, depth)
        shown = self._redactor.mask(value, name)
        return str(shown) if isinstance(shown, str) else shown

    def _mapping(self, value: dict[Any, Any], depth: int) -> dict[Any, Any]:
        framework = str(value.get("module") or "").partition(".")[0] in _FRAMEWORKS
        # a framework's variables hold the task's arguments by position: nobody knows which of them is the password
        return {
            self._key(key): self.over(item, key, depth - 1)
            for key, item in value.items()
            if not (framework and key == "vars")
        }

    def _key(self, key: Any) -> str:
        shown = self._redactor.mask(key)
        return str(shown) if isinstance(shown, str) else repr(shown)

    def _items(self, value: Any, depth: int) -> list[Any]:
        if any(isinstance(item, (dict, list, tuple)) for item in value):
            return [self.over(item, None, depth - 1) for item in value]
        self._left -= len(value)
        return list(self._redactor.mask(list(value)))  # two neighbours may be a name and its value
