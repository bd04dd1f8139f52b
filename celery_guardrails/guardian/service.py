"""The guardian's small services: alerts, unfinished requeues, the heartbeat.

Archiving is not a service: the loop itself does it. Services that a worker has, too (shipping the spool, releasing what
waits), are in `transport/service.py`.
"""
# on its own: the guardian's loop knows the shape of a service, and not these classes

from __future__ import annotations

import logging
import os
import socket
from datetime import datetime, timedelta

from celery_guardrails.alerts.service import AlertService
from celery_guardrails.recovery.requeue import RequeuePublisher, finish_requeues
from celery_guardrails.store import lease
from celery_guardrails.store.engine import Store

__all__ = ["Alerting", "Heartbeat", "RequeueFinishing"]

logger = logging.getLogger("celery_guardrails.guardian")


class Alerting:
    """Counts dead letters and posts alerts, every half second."""

    name = "alerts"
    every = timedelta(milliseconds=500)

    def __init__(self, service: AlertService) -> None:
        self._service = service

    def run_once(self, now: datetime, flush: bool) -> None:
        """Step the alert groups and deliver what is due."""
        self._service.run_once(now, flush=flush)


class RequeueFinishing:
    """Publishes requeues whose process died between claiming and publishing, every 30 seconds.

    Args:
        store: the archive.
        publisher: how a requeued message is published.
        grace: how long a claim may stay unpublished before it counts as abandoned. Default 60 seconds.
    """

    name = "requeues"
    every = timedelta(seconds=30)

    def __init__(self, store: Store, publisher: RequeuePublisher, grace: timedelta = timedelta(seconds=60)) -> None:
        self._store = store
        self._publisher = publisher
        self._grace = grace

    def run_once(self, now: datetime, flush: bool) -> None:
        """Publish them. Such work may run twice: the process may have died just after it published."""
        finish_requeues(self._store, self._publisher, now, self._grace)


class Heartbeat:
    """Writes every 5 seconds that this guardian is alive."""

    name = "heartbeat"
    # six heartbeats fit into `lease.ALIVE`: one slow call of a sink or a broker does not make the guardian look dead
    every = timedelta(seconds=5)

    def __init__(self, store: Store, guardian_id: str, started_at: datetime) -> None:
        self._store = store
        self._id = guardian_id
        self._started_at = started_at

    def run_once(self, now: datetime, flush: bool) -> None:
        """Write the heartbeat."""
        with self._store.begin() as conn:
            lease.heartbeat(conn, self._id, self._started_at, now, socket.gethostname(), os.getpid())
