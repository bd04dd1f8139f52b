"""Settings of Redis with which it loses messages or delivers them twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from celery_guardrails.cli.doctor.checks.time_limit import hard_limit, named
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, warning
from celery_guardrails.clock import shown
from celery_guardrails.transport.redis.rights import missing

__all__ = ["eviction", "persistence", "replication", "rights", "setting_of", "visibility_timeout"]

_KEEP = "set appendonly yes and appendfsync everysec in redis.conf"
_VISIBILITY = 3600.0


def persistence(context: Context) -> Iterator[Finding]:
    """Whether messages outlive a restart of the server."""
    if context.transport != "redis":
        return
    aof = context.redis.info("persistence").get("aof_enabled")
    save, fsync = setting_of(context.redis, "save"), setting_of(context.redis, "appendfsync")
    if aof:
        if fsync == "no":
            yield warning("appendfsync is no: a power cut loses what the system has not written yet", _KEEP)
        else:
            lost = "nothing that Redis has answered" if fsync == "always" else "up to a second of messages"
            yield fine(f"append-only file on (appendfsync {fsync or 'unknown'}): a power cut loses {lost}")
    elif save is None:
        yield warning("no append-only file, and the server does not say whether it takes snapshots", _KEEP)
    elif save:
        yield warning(f"only snapshots (save {save}): a crash loses every message since the last one", _KEEP)
    else:
        yield fault("neither append-only file nor snapshots: a restart of Redis loses every message", _KEEP)


def eviction(context: Context) -> Iterator[Finding]:
    """Whether the server deletes messages when its memory is full."""
    if context.transport != "redis":
        return
    memory = context.redis.info("memory")
    policy, limit = str(memory.get("maxmemory_policy", "")), int(memory.get("maxmemory") or 0)
    fix = "set maxmemory-policy noeviction in redis.conf, and keep caches in another Redis"
    if policy.startswith("allkeys-"):
        when = "when its memory is full" if limit else "as soon as a maxmemory is set"
        finding = fault if limit else warning
        yield finding(f"maxmemory-policy is {policy}: {when}, Redis deletes whole queues", fix)
    elif policy.startswith("volatile-") and limit:
        yield warning(
            f"maxmemory-policy is {policy}: when its memory is full, Redis deletes results and locks early", fix
        )
    elif policy:
        yield fine(
            f"maxmemory-policy is {policy}: when its memory is full, Redis refuses messages, which are then spooled"
        )


def replication(context: Context) -> Iterator[Finding]:
    """Whether this is a replica, which takes no messages, or has some, which may miss the last ones."""
    if context.transport != "redis":
        return
    found = context.redis.info("replication")
    if found.get("role") != "master":
        yield fault(
            "this server is a replica: it takes no messages", "point broker_url to the primary, or use Sentinel"
        )
    elif replicas := int(found.get("connected_slaves") or 0):
        yield warning(
            f"{replicas} replica{'s' if replicas > 1 else ''}: a failover loses messages that were not copied yet",
            "set min-replicas-to-write 1 and min-replicas-max-lag 10 in redis.conf to narrow it",
        )


def rights(context: Context) -> Iterator[Finding]:
    """Whether the application's own user may do what guardrails does. The check changes nothing."""
    if context.transport != "redis" or not context.settings.enabled:
        return
    from redis import Redis  # an extra

    channel = context.broker.connection.default_channel
    lacking = missing(
        channel, Redis(connection_pool=channel.pool), context.dead_letter_queues, context.app.amqp.queues.consume_from
    )
    if lacking is None:
        yield fine("this user may run the scripts and touch the keys of guardrails")
    else:
        yield fault(f"{lacking}: workers do not start", lacking.fix)


def visibility_timeout(context: Context) -> Iterator[Finding]:
    """The time after which kombu redelivers a message from Redis that is not acknowledged."""
    if context.transport != "redis":
        return
    timeout = timedelta(seconds=float(context.options.get("visibility_timeout") or _VISIBILITY))
    words = f"visibility_timeout is {shown(timeout)}"
    delayed = [task for task in context.exposed if _delay(task) > timeout.total_seconds()]
    long = [task for task in context.exposed if task.acks_late and not _fits(hard_limit(task), timeout)]
    if context.settings.enabled:
        yield fine(
            f"{words}: workers report what they hold, so no task runs twice, and this time may be short; "
            "the tasks of a killed worker run again after it"
        )
        return
    if delayed:
        yield warning(
            f"{words}: a task with a longer countdown or eta runs twice, and {named(delayed)} has longer retry delays",
            f'set enabled to True, or raise broker_transport_options["visibility_timeout"] above {_longest(delayed)}',
        )
    if long:
        yield warning(
            f"{words}: {named(long)}, acknowledged late, may run longer and is then delivered a second time",
            "set enabled to True, or give it a shorter time_limit",
        )
    if not (delayed or long):
        yield fine(f"{words}: a task sent with a longer countdown or eta runs twice, while guardrails is switched off")


def _longest(tasks: Sequence[Any]) -> str:
    return shown(timedelta(seconds=max(map(_delay, tasks))))


def _delay(task: Any) -> float:
    """The longest delay, in seconds, that a plain task is known to retry after."""
    known = float(getattr(task, "default_retry_delay", 0) or 0)
    if getattr(task, "retry_backoff", False):
        return float(getattr(task, "retry_backoff_max", 600) or known)
    return known


def _fits(limit: float | None, timeout: timedelta) -> bool:
    return limit is not None and limit <= timeout.total_seconds()


def setting_of(client: Any, name: str) -> str | None:
    """A setting of a server; `None` where the server does not say, as hosted servers often do not."""
    try:
        found = client.config_get(name)
    except Exception:  # noqa: BLE001 CONFIG may be renamed, forbidden or unknown
        return None
    value = found.get(name)
    return None if value is None else str(value)
