"""Whether the broker answers, and whether it is one that keeps what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery_guardrails.cli.pitfall.context import BrokerAway, Context
from celery_guardrails.cli.pitfall.finding import Finding, fault, fine, warning

__all__ = ["kind", "reachable"]

_FORGETFUL = {
    "filesystem": "a broker of files loses the message that a worker holds when it crashes",
    "sqlalchemy": "a broker of SQL tables loses the message that a worker holds when it crashes",
    "sql": "a broker of SQL tables loses the message that a worker holds when it crashes",
}


def reachable(context: Context) -> Iterator[Finding]:
    """The broker's answer, its version and how long it took."""
    try:
        answered = context.broker
    except BrokerAway as exc:
        yield fault(f"{context.broker_url} does not answer: {exc}", "start it, or correct broker_url")
        return
    took = f"{answered.seconds * 1000:.0f} ms"
    yield fine(f"{_server(context, answered.connection)} at {context.broker_url} answers in {took}")


def kind(context: Context) -> Iterator[Finding]:
    """Brokers that are for tests, or that keep no message which a worker has taken."""
    if context.transport == "memory":
        yield fault(
            "memory:// lives in one process: no worker elsewhere sees its messages, and they end with it",
            "set broker_url to redis://... or amqp://...",
        )
    elif context.transport in _FORGETFUL:
        yield warning(_FORGETFUL[context.transport], "set broker_url to redis://... or amqp://...")


def _server(context: Context, connection: Any) -> str:
    if context.transport == "redis":
        server = context.redis.info("server")
        if server.get("valkey_version"):
            return f"Valkey {server['valkey_version']}"
        return f"Redis {server.get('redis_version', '?')}"
    if context.transport == "amqp":
        properties = connection.connection.server_properties
        return f"{properties.get('product', 'AMQP')} {properties.get('version', '?')}"
    return str(context.transport)
