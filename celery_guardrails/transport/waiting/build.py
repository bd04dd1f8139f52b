"""Choosing the way of waiting for an application's broker."""

from __future__ import annotations

import logging

from celery import Celery

from celery_guardrails.seams import REDIS_WAIT, holds
from celery_guardrails.transport.address import broker_fault
from celery_guardrails.transport.publisher import Publisher
from celery_guardrails.transport.waiting.amqp import NativeDelay
from celery_guardrails.transport.waiting.eta import EtaWaiting
from celery_guardrails.transport.waiting.property import SQS_LIMIT, DelayProperty
from celery_guardrails.transport.waiting.protocol import Waiting

__all__ = ["waiting_for"]

logger = logging.getLogger("celery_guardrails.transport")


def waiting_for(app: Celery, publisher: Publisher) -> Waiting:
    """The best way of waiting that this application's broker offers. Connects to nothing, and never raises."""
    if unreadable := broker_fault(app):
        logger.warning("%s %s: retries wait in workers", unreadable.setting, unreadable.problem)
        return EtaWaiting(publisher)
    try:
        with app.connection_for_write() as connection:
            kind = connection.get_transport_cls().driver_type
        if kind == "amqp":
            return NativeDelay(app, publisher)
        if kind == "redis" and holds(REDIS_WAIT):
            return _on_redis(app, publisher)
        if kind in ("sqs", "pgmq"):
            return DelayProperty(publisher, SQS_LIMIT if kind == "sqs" else None)
    except Exception:
        # a wrong broker URL, or a transport whose library is not installed: the publish will raise the error
        logger.warning("the broker's transport cannot be loaded: retries wait in workers", exc_info=True)
    return EtaWaiting(publisher)


def _on_redis(app: Celery, publisher: Publisher) -> Waiting:
    # here, because the redis client is an extra
    from celery_guardrails.transport.waiting.redis import RedisWaiting

    return RedisWaiting(app, publisher)
