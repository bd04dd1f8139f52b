"""Opening a connection to the application's broker, quickly or not at all.

Owns the bounds: kombu's own ways to connect wait for seconds between tries, or try for ever.
"""

from __future__ import annotations

from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

__all__ = ["connection_errors", "opened"]


def opened(app: Celery, *, confirm: bool = False, timeout: float = 4.0) -> Connection:
    """An open connection, each of the broker's addresses tried once.

    Args:
        app: whose broker.
        confirm: ask for publisher confirms, where the broker has them.
        timeout: seconds for each address.

    Raises:
        kombu.exceptions.OperationalError: no address answers.
    """
    connection: Connection = app.connection_for_write(connect_timeout=timeout, heartbeat=0)
    try:
        if confirm and connection.transport.driver_type == "amqp":
            # other transports refuse options that they do not know
            connection.transport_options["confirm_publish"] = True
        connection.ensure_connection(max_retries=max(1, len(connection.alt)), interval_start=0, interval_step=0)
    except BaseException:
        connection.release()
        raise
    return connection


def connection_errors(connection: Connection | None) -> tuple[type[BaseException], ...]:
    """What a broken connection raises; without one, what every transport may raise when it connects."""
    known: tuple[type[BaseException], ...] = (OSError, OperationalError)
    if connection is not None:
        known += (*connection.connection_errors, *connection.channel_errors)
    return known
