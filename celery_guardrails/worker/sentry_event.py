"""A Sentry event of a dead letter without its secrets: messages, local variables, extra, tags, contexts, breadcrumbs.

Owns which parts of an event hold what a task was given or said. It must not know how the event comes about
(`sentry.py`). Sentry's own scrubber knows names only, and few; it goes over the event afterwards as ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery_guardrails.letters.record import Preview
from celery_guardrails.redaction import Redactor

__all__ = ["hiding"]

logger = logging.getLogger("celery_guardrails.worker")

_FRAMEWORKS = ("celery_guardrails", "celery", "billiard", "kombu", "sentry_sdk")
_LINES = ("context_line", "pre_context", "post_context")


def hiding(redactor: Redactor, preview: Preview) -> Callable[[Any, Any], Any]:
    """An event processor of Sentry's that hides what is secret; it never raises, and drops no event.

    Args:
        redactor: what to hide.
        preview: the task's arguments as people may see them, in place of what Sentry's integration says of them.
    """

    def process(event: Any, hint: Any) -> Any:
        extra = event.get("extra")
        job = extra.get("celery-job") if isinstance(extra, dict) else None
        if isinstance(job, dict):
            # without the parameters' names nobody knows which of them is the password
            for which, shown in (("args", preview.args), ("kwargs", preview.kwargs)):
                if which in job and not isinstance(job[which], str):
                    job[which] = shown
        for part, hide in _PARTS.items():
            if part in event:
                try:
                    event[part] = hide(redactor, event[part])
                except Exception:  # an event of a shape that this version does not know
                    logger.warning("the part %s of an event is not sent to Sentry", part, exc_info=True)
                    event.pop(part)
        return event

    return process


def _exception(redactor: Redactor, part: Any) -> Any:
    for value in part.get("values") or ():
        value["value"] = redactor.texts(value.get("value"))
        for frame in (value.get("stacktrace") or {}).get("frames") or ():
            _hide_in_frame(redactor, frame)
    return part


def _hide_in_frame(redactor: Redactor, frame: Any) -> None:
    if str(frame.get("module") or "").partition(".")[0] in _FRAMEWORKS:
        frame.pop("vars", None)  # the task's arguments by position, of which nobody knows which is the password
    elif frame.get("vars"):
        frame["vars"] = redactor.mask(frame["vars"])
    for name in _LINES:
        if frame.get(name):
            frame[name] = redactor.texts(frame[name])


def _breadcrumbs(redactor: Redactor, part: Any) -> Any:
    for crumb in part.get("values") or () if isinstance(part, dict) else part:
        crumb["message"] = redactor.texts(crumb.get("message"))
        if crumb.get("data"):
            crumb["data"] = redactor.mask(crumb["data"])
    return part


def _masked(redactor: Redactor, part: Any) -> Any:
    return redactor.mask(part)


def _texts(redactor: Redactor, part: Any) -> Any:
    return redactor.texts(part)


_PARTS: dict[str, Callable[[Redactor, Any], Any]] = {
    "exception": _exception,
    "message": _texts,
    "logentry": _texts,
    "extra": _masked,
    "tags": _texts,
    "contexts": _texts,
    "breadcrumbs": _breadcrumbs,
}
