"""Whether the broker answers, and whether it is of a kind that keeps its messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery_guardrails.cli.doctor.context import Answered, BrokerAway, Context
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, warning

__all__ = ["kind", "reachable"]

_FORGETFUL = {
    "filesystem": "a broker of files loses the message that a worker holds when it crashes",
    "sqlalchemy": "a broker of SQL tables loses the message that a worker holds when it crashes",
    "sql": "a broker of SQL tables loses the message that a worker holds when it crashes",
}


def reachable(context: Context) -> Iterator[Finding]:
    """The broker's answer, and its version."""
    try:
        answered = context.broker
    except BrokerAway as exc:
        several = len(context.addresses) > 1
        words = f"none of {context.broker_url} answers" if several else f"{context.broker_url} does not answer"
        yield fault(f"{words}: {exc}", "start it, or correct broker_url")
        return
    led = _led(answered)
    # a connection through Sentinels names the first Sentinel, whichever it has asked
    known = set() if led else {context.broker_url}
    urls = {address: url for address, url in context.addresses.items() if url is not None and address not in known}
    dead = {address: reason for address, url in urls.items() if (reason := context.refuses(url)) is not None}
    at = next((address for address in urls if led and address not in dead), context.broker_url)
    yield fine(f"{_server(context, answered.connection)} at {at}{led} answers")
    for address, reason in dead.items():
        words = f"{address}, one of {len(context.addresses)} addresses in broker_url, does not answer: {reason}"
        yield warning(words, "start it, or remove it from broker_url: a client that tries it first loses time")


def _led(answered: Answered) -> str:
    """The Redis that a Sentinel led to, in words; `""` without a Sentinel."""
    pool: Any = getattr(getattr(answered.connection.default_channel, "client", None), "connection_pool", None)
    if not hasattr(pool, "get_master_address"):
        return ""
    host, port = pool.get_master_address()
    return f" (which leads to {host}:{port})"


def kind(context: Context) -> Iterator[Finding]:
    """Brokers that are only for tests, or that lose a message when its worker crashes."""
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
