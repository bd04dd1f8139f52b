"""All checks, in the order in which they are shown: what everything depends on comes first."""

from __future__ import annotations

from celery_guardrails.cli.pitfall import (
    archive,
    backend,
    broker,
    cloud,
    dead_letter,
    guardian,
    journal,
    orphan,
    rabbitmq,
    redis,
    requeued,
    right,
    sink,
    spool,
    task_class,
    waiting,
    worker,
)
from celery_guardrails.cli.pitfall.finding import Check

__all__ = ["CHECKS"]

CHECKS = (
    Check("settings", worker.settings),
    Check("broker", broker.reachable),
    Check("broker", broker.kind),
    Check("rights", right.rights),
    Check("persistence", redis.persistence),
    Check("persistence", rabbitmq.durability, offline=True),
    Check("eviction", redis.eviction),
    Check("replication", redis.replication),
    Check("rights", redis.rights),
    Check("retention", cloud.retention, offline=True),
    Check("queue limits", rabbitmq.queue_limits, offline=True),
    Check("redelivery", redis.visibility_timeout, offline=True),
    Check("redelivery", orphan.taken),
    Check("redelivery", rabbitmq.consumer_timeout, offline=True),
    Check("redelivery", cloud.hold, offline=True),
    Check("waiting", waiting.way, offline=True),
    Check("waiting", waiting.levels),
    Check("waiting", waiting.eta_limit, offline=True),
    Check("dead letters", dead_letter.queues),
    Check("archive", archive.opened),
    Check("archive", archive.place),
    Check("archive", archive.machines),
    Check("guardian", guardian.heartbeat),
    Check("recoveries", requeued.unreported),
    Check("spool", spool.directory),
    Check("journal", journal.entries),
    Check("alerts", sink.slack),
    Check("alerts", sink.sentry),
    Check("results", backend.answers),
    Check("workers", worker.running),
    Check("task classes", task_class.declared, offline=True),
    Check("time limits", worker.time_limits, offline=True),
    Check("heartbeat", worker.heartbeat, offline=True),
    Check("acknowledgement", worker.acknowledgement, offline=True),
    Check("shutdown", worker.shutdown),
)
