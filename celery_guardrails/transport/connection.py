"""Opening a connection to the application's broker, quickly or not at all.

Owns the time limits: kombu's own ways to connect wait for seconds between tries, or try for ever. A broker that no
longer answers would hold up whoever sends to it or waits for it.
"""

from __future__ import annotations

# Every socket to a host needs this module. If one of our threads loaded it while the process forks, the child would
# wait for it for ever.
import encodings.idna  # noqa: F401
from collections.abc import Callable

from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

from celery_guardrails.transport.address import broker_fault
from celery_guardrails.transport.properties import read_whatever_comes

__all__ = ["connection_errors", "give_up", "opened"]


def opened(
    app: Celery,
    url: str | None = None,
    *,
    confirm: bool = False,
    timeout: float = 4.0,
    prepare: Callable[[Connection], object] | None = None,
) -> Connection:
    """An open connection, each of the broker's addresses tried once.

    Args:
        app, url: the application, and one address of its broker; `None`: all addresses that the application has.
        confirm: ask for publisher confirms, where the broker has them.
        timeout: seconds for each address, and later for each answer, unless the wait for it has a limit of its own.
        prepare: called with the connection before it knows its transport.

    Raises:
        kombu.exceptions.OperationalError: no address answers, or an address cannot be parsed.
    """
    connection: Connection = _readable(app, url).connection_for_write(url, connect_timeout=timeout, heartbeat=0)
    try:
        if prepare is not None:
            prepare(connection)
        # transports refuse options that they do not know
        kind, options = connection.transport.driver_type, connection.transport_options
        if kind == "amqp":
            read_whatever_comes()
            if confirm:
                options["confirm_publish"] = True
        if kind == "redis":
            for name in ("socket_timeout", "socket_connect_timeout"):
                options[name] = min(timeout, options.get(name) or timeout)
        connection.ensure_connection(max_retries=max(1, len(connection.alt)), interval_start=0, interval_step=0)
        if kind == "amqp":
            # not `read_timeout`: with that option py-amqp tries again for ever
            connection.connection.transport.sock.settimeout(timeout)
    except BaseException:
        connection.release()
        raise
    return connection


def _readable(app: Celery, url: str | None) -> Celery:
    if unreadable := broker_fault(app, url):
        raise OperationalError(f"{unreadable.setting} {unreadable.problem}; {unreadable.suggestion}")
    return app


def connection_errors(connection: Connection | None) -> tuple[type[BaseException], ...]:
    """The errors that a broken connection raises; without a connection, those of every transport when it connects."""
    known: tuple[type[BaseException], ...] = (OSError, OperationalError)
    if connection is not None:
        known += (*connection.connection_errors, *connection.channel_errors)
    return known


def give_up(connection: Connection) -> None:
    """Close a connection whose broker may not answer; never raises."""
    try:
        if connection.transport.driver_type == "amqp":
            connection.collect()  # an AMQP close waits for an answer that may never come
        else:
            connection.release()
    except Exception:  # noqa: BLE001 the connection is given up, even if its close fails
        return
