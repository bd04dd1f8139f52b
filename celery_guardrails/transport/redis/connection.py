"""Our own connection to Redis, for all but consuming: leases, restoring, waiting messages.

Owns opening, timeouts, forks and giving up. kombu's channel knows where Redis is (TLS, sentinel, sockets) and the form
of keys and messages. Commands go through a client that puts no prefix before keys, because scripts name whole keys.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from celery import Celery
from kombu import Connection

from celery_guardrails.errors import PublishError, UnansweredError
from celery_guardrails.transport.connection import connection_errors

__all__ = ["Line"]

_T = TypeVar("_T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_QUICK, _AWAY = 0.5, 5.0
"""Seconds for a try if Redis was away just now, and seconds for which that short limit holds."""
_GONE = (OSError, redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.ReadOnlyError)
"""The errors after which a connection is useless; the last means that the server has become a replica."""
_CONNECTIONS = 100
"""Threads or greenlets of one process that may use a line at once."""


class Line:
    """A connection to an application's Redis, opened at its first use. Safe from any thread, and after a fork.

    Args:
        app: the application.
        timeout: seconds for each address, and for each answer.
        read: whether to connect to the broker for reading (`broker_read_url`) and not to the one for writing.
    """

    def __init__(self, app: Celery, timeout: float, read: bool = False) -> None:
        self._app = app
        self._timeout = timeout
        self._open = app.connection_for_read if read else app.connection_for_write
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._connection: Connection | None = None
        self._channel: Any = None
        self._client: Any = None
        self._away_until = 0.0

    def once(self, act: Callable[[Any, Any], _T], patience: float | None = None) -> _T:
        """Call `act(channel, client)`, and drop the connection if it is broken.

        Args:
            act: what to do.
            patience: seconds to wait while another thread opens the connection; `None`: the timeout.

        Raises:
            Exception: whatever `act` raised, such as the errors of a broken connection or of a server that refuses.
        """
        channel, client = self._ensure_open(self._timeout if patience is None else patience)
        try:
            return act(channel, client)
        except _GONE:
            self._drop(client)
            raise

    def until(self, act: Callable[[Any, Any], _T], seconds: float, where: str, *, reads: bool = False) -> _T:
        """Call `act` as `once` does, again and again for so many seconds while Redis is away.

        Args:
            act: what to do. It may run twice if an answer gets lost.
            seconds: how long to try.
            where: the queue that the error names.
            reads: whether `act` only reads: the error then does not say that a publish failed.

        Raises:
            PublishError: Redis did not answer in time, or refuses; it is an `UnansweredError` if `act` only reads.
        """
        began = time.monotonic()
        ends = began + (seconds if began >= self._away_until else min(_QUICK, seconds))
        pause = _FIRST_PAUSE
        while True:
            try:
                return self.once(act, max(_FIRST_PAUSE, ends - time.monotonic()))
            except PublishError:
                raise
            except Exception as exc:
                away = isinstance(exc, (*connection_errors(None), redis.exceptions.RedisError))
                if not away or time.monotonic() + pause >= ends:
                    self._away_until = time.monotonic() + _AWAY
                    reason = f"{type(exc).__name__}: {exc}"
                    raise (UnansweredError(self._address(), reason) if reads else PublishError(where, reason)) from exc
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def close(self) -> None:
        """Close the connection; the next use opens a new one."""
        self._drop(self._client)

    def _address(self) -> str:
        connection = self._open()
        shown = str(connection.as_uri())
        # kombu shows a masked password even if Redis has no password
        return f"Redis at {shown if connection.password else shown.replace('//:**@', '//')}"

    def _ensure_open(self, patience: float) -> tuple[Any, Any]:
        # without a limit each thread would wait for all threads before it, one connect timeout after another
        if not self._lock.acquire(timeout=patience):
            raise TimeoutError(f"another thread has been opening the connection for {patience:.1f} s")
        try:
            if self._pid != os.getpid():
                # a fork inherits its parent's sockets: leave them alone
                self._connection = self._channel = self._client = None
                self._pid = os.getpid()
            if self._client is None:
                connection = self._connect()
                self._connection, self._channel = connection, connection.default_channel
                self._client = redis.Redis(connection_pool=self._channel.pool)
            return self._channel, self._client
        finally:
            self._lock.release()

    def _connect(self) -> Connection:
        connection = self._open(connect_timeout=self._timeout, heartbeat=0)
        options = connection.transport_options
        try:
            for name in ("socket_timeout", "socket_connect_timeout"):
                options[name] = min(self._timeout, options.get(name) or self._timeout)
            options["max_connections"] = max(_CONNECTIONS, options.get("max_connections") or 0)
            connection.ensure_connection(max_retries=max(1, len(connection.alt)), interval_start=0, interval_step=0)
        except BaseException:
            connection.release()
            raise
        return connection

    def _drop(self, client: Any) -> None:
        with self._lock:
            if client is None or client is not self._client:
                return  # another thread has opened a new connection meanwhile
            connection, self._connection, self._channel, self._client = self._connection, None, None, None
            if self._pid != os.getpid() or connection is None:
                return
            try:
                connection.release()
            except Exception:  # noqa: BLE001 the connection is given up, even if its close fails
                return
