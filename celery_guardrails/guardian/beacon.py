"""A dead man's switch: fetches `alerts.heartbeat_url` each minute while this guardian can do its work.

Owns the request, and who sends it: the guardian that posts alerts, because only it knows whether sinks take them. It
must not know what is well, and never shows the URL, which is a secret.
"""

from __future__ import annotations

import http.client
import logging
import threading
import urllib.request
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from urllib.error import HTTPError

__all__ = ["Beacon"]

logger = logging.getLogger("celery_guardrails.guardian")

_TIMEOUT = 10.0


class Beacon:
    """Fetches a URL each minute while nothing is unwell. The request runs in a thread, so that nobody waits for it.

    Args:
        url: what to fetch, by GET.
        leads: whether this guardian posts the alerts; the others leave the URL alone.
        unwell: what does not work at present, in words; may be asked once a minute.
        timeout: seconds for one request. Default 10.
    """

    name = "beacon"
    every = timedelta(minutes=1)

    def __init__(
        self, url: str, leads: Callable[[], bool], unwell: Callable[[], Sequence[str]], *, timeout: float = _TIMEOUT
    ) -> None:
        self._url = url
        self._leads = leads
        self._unwell = unwell
        self._timeout = timeout
        self._under_way: threading.Thread | None = None
        self._logged: str | None = None

    def run_once(self, now: datetime, flush: bool) -> None:
        """Start a request, unless something is unwell or the last one has not ended."""
        if not self._leads() or (self._under_way is not None and self._under_way.is_alive()):
            return
        if found := self._unwell():
            self._log(f"no heartbeat is sent: {', '.join(found)}")
            return
        self._under_way = threading.Thread(target=self._fetch, name="guardrails-beacon", daemon=True)
        self._under_way.start()

    def _fetch(self) -> None:
        problem = self._problem()
        self._log(None if problem is None else f"the heartbeat was not taken: {problem}")

    def _problem(self) -> str | None:
        try:
            with urllib.request.urlopen(self._url, timeout=self._timeout) as answer:
                answer.read(1024)
        except HTTPError as error:
            error.close()
            return f"HTTP {error.code}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            # its text may quote the URL
            return type(getattr(error, "reason", error)).__name__
        return None

    def _log(self, words: str | None) -> None:
        if words is not None and words != self._logged:
            logger.warning("%s", words)
        elif words is None and self._logged is not None:
            logger.warning("heartbeats are sent again")
        self._logged = words
