"""Alerts to whatever apprise knows by a URL: PagerDuty, Teams, e-mail and a hundred others. Needs the extra `apprise`.

Sends the alert as plain text, its first line as the title. Apprise and the HTTP client below it log URLs and payloads,
so nothing that they log while they work for us is written; an HTTP status is all that is read from it.
"""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery_guardrails.alerts.sinks.bounded import Bounded
from celery_guardrails.alerts.sinks.plain import PostOnly
from celery_guardrails.alerts.sinks.sink import Message, Posted
from celery_guardrails.errors import Trouble, Undelivered
from celery_guardrails.text import unmentioned

__all__ = ["AppriseSink"]

_LOUD = ("apprise", "urllib3.connectionpool", "requests")
_STATUS = re.compile(r"error\s*[=:]\s*'?(\d{3})\b")
_SECONDS = 60.0


class AppriseSink(PostOnly):
    """Post alerts through one apprise URL. It cannot edit.

    Args:
        name: what people may see in place of the URL.
        url: the URL, a secret.
        seconds: how long one call may take. Default 60: apprise has shorter timeouts of its own.

    Raises:
        ImportError: apprise is not installed.
        ValueError: apprise does not know this URL; the error does not quote it.
    """

    def __init__(self, name: str, url: str, *, seconds: float = _SECONDS) -> None:
        self.name = name
        self._bounded = Bounded(seconds)
        with _unlogged(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # apprise imports each of its plugins, and some import what is deprecated
            import apprise

            self._target = apprise.Apprise()
            if not self._target.add(url):
                raise ValueError("apprise does not know this URL")

    def post(self, message: Message, *, channel: str | None = None) -> Posted:
        """Notify; whether a failed try has arrived is not known, unless the service answered by a status."""
        title, _, body = unmentioned(message.plain).partition("\n")
        with _unlogged() as said:
            done = self._bounded(
                lambda: self._target.notify(
                    body=body or title, title=title if body else "", notify_type=_kind(message), body_format="text"
                )
            )
        if not done:
            raise _trouble(said)
        return Posted(message.post_uid, self.name)


def _kind(message: Message) -> Any:
    from apprise import NotifyType

    if message.alert is None:
        return NotifyType.INFO
    if message.alert.notice == "resolved":
        return NotifyType.SUCCESS
    return {"info": NotifyType.INFO, "warning": NotifyType.WARNING}.get(message.alert.severity, NotifyType.FAILURE)


def _trouble(said: list[str]) -> Undelivered:
    found = [match for text in said for match in _STATUS.findall(text)]
    if not found:
        return Undelivered(Trouble.UNCERTAIN, "apprise could not deliver it")
    status = int(found[-1])
    if status == 429:
        return Undelivered(Trouble.RATE_LIMITED, "HTTP 429")
    if status in (401, 403, 404, 410):
        return Undelivered(Trouble.AUTH, f"HTTP {status}")
    return Undelivered(Trouble.REFUSED if 400 <= status < 500 else Trouble.UNCERTAIN, f"HTTP {status}")


class _Mute(logging.Filter):
    """Keeps what is logged while a call of ours runs, in place of writing it."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._running: list[list[str]] = []

    def filter(self, record: logging.LogRecord) -> bool:
        with self._lock:
            for said in self._running:
                said.append(record.getMessage())
            return not self._running

    @contextmanager
    def over(self) -> Iterator[list[str]]:
        said: list[str] = []
        with self._lock:
            self._running.append(said)
        try:
            yield said
        finally:
            with self._lock:
                self._running = [other for other in self._running if other is not said]


_mute = _Mute()


@contextmanager
def _unlogged() -> Iterator[list[str]]:
    for name in _LOUD:
        logging.getLogger(name).addFilter(_mute)  # a filter that is there already is not added again
    with _mute.over() as said:
        yield said
