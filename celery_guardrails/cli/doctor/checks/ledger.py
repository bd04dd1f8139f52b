"""The ledger of work that takes effect once, and what tasks declare of running twice.

The checks of the ledger itself apply only where a task declares idempotency, or a setting names a ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

from celery import Task

from celery_guardrails import clock
from celery_guardrails.cli.doctor.checks.redis import setting_of
from celery_guardrails.cli.doctor.checks.time_limit import named
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, notice, warning
from celery_guardrails.clock import format_duration, shown
from celery_guardrails.errors import LedgerError
from celery_guardrails.idempotency.key import key_of_text
from celery_guardrails.idempotency.opening import open_ledger
from celery_guardrails.idempotency.redis import RedisLedger
from celery_guardrails.policy import Policy
from celery_guardrails.policy.schedule import retry_window

__all__ = ["declared", "forgetful", "reachable"]

_SKEW = timedelta(seconds=5)
_TIMEOUT = 4.0
_AUTHORITY = "or keep the ledger in a database: idempotency.url = postgresql://..., or leave it out for the archive"


def reachable(context: Context) -> Iterator[Finding]:
    """Whether it answers, and how far its clock and this machine's are apart."""
    url = _url(context)
    if url is None:
        return
    if url.startswith("memory:"):
        yield fault(
            "the ledger is in each process's memory: processes do not know what others have done",
            "set idempotency.url to redis://... or postgresql://..., or leave it out for the archive",
        )
        return
    try:
        with closing(open_ledger(url)) as ledger:
            ledger.entry(key_of_text(context.settings.environment, "guardrails", "doctor"))
            asked = clock.now()
            found = ledger.now()
            answered = clock.now()
    except LedgerError as exc:
        yield fault(f"{exc}; tasks with idempotency wait until it answers", _fix(context))
        return
    # it read its clock between the two instants
    ahead, behind = found - answered, asked - found
    if max(ahead, behind) > _SKEW:
        words = f"{shown(ahead)} ahead of" if ahead > behind else f"{shown(behind)} behind"
        yield warning(
            f"{ledger.name}: its clock is {words} this machine's. Leases go by the ledger's clock, delays and deadlines"
            " by that of the worker",
            "synchronise the clocks of both machines, for example by chrony",
        )
    else:
        yield fine(f"{ledger.name}: answers, and its clock agrees with this machine's")


def forgetful(context: Context) -> Iterator[Finding]:
    """What lets a ledger in Redis forget: an eviction, or a restart without persistence."""
    url = _url(context)
    if url is None or url.partition(":")[0] not in ("redis", "rediss", "unix"):
        return
    from redis import Redis  # an extra
    from redis.exceptions import RedisError

    try:
        with closing(
            Redis.from_url(url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, decode_responses=True)
        ) as client:
            found = [_eviction(client), _persistence(client)]
    except (RedisError, OSError):
        return  # `reachable` reports it
    name = RedisLedger(url).name
    for words, fix in filter(None, found):
        yield notice(f"{name}: {words}. Work that is done may then be done again", f"{fix}, {_AUTHORITY}")


def declared(context: Context) -> Iterator[Finding]:
    """What policies declare: critical work that may run twice, and keys that end before the retries do."""
    if not context.settings.enabled:
        return
    policies = [(task, context.guardrails.policy_of(task).policy) for task in context.guarded]
    if exposed := [task for task, policy in policies if _may_run_twice(policy)]:
        yield notice(
            f"critical and acknowledged late: {named(exposed)}. If a worker is killed, the task runs again",
            'declare idempotency=Idempotency(key=("order_id",)) in the policy, if doing the work twice does harm',
        )
    for task, policy in policies:
        if policy.idempotency is not None and policy.idempotency.ttl < (window := retry_window(policy)):
            yield _short_lived(task, policy.idempotency.ttl, window)


def _short_lived(task: Task, ttl: timedelta, window: timedelta) -> Finding:
    return warning(
        f"{task.name}: its retries may take {shown(window)}, but its idempotency keys are kept for {shown(ttl)} (ttl): "
        "another message with the same key may do the work meanwhile",
        f'set ttl="{format_duration(window)}" or longer in its Idempotency, or retry for a shorter time',
    )


def _may_run_twice(policy: Policy) -> bool:
    return policy.severity == "critical" and policy.acks == "late" and policy.idempotency is None


def _url(context: Context) -> str | None:
    """Where the ledger is; `None`: nothing uses it."""
    settings = context.settings
    used = settings.enabled and any(
        context.guardrails.policy_of(task).policy.idempotency is not None for task in context.guarded
    )
    return settings.idempotency.url or (settings.store.url if used else None)


def _fix(context: Context) -> str:
    if context.settings.idempotency.url is None:
        return "it is in the archive: see there, or set idempotency.url to a ledger of its own"
    return "start its server, correct idempotency.url, or give this user the right to use it"


def _eviction(client: Any) -> tuple[str, str] | None:
    memory = client.info("memory")
    policy, limit = str(memory.get("maxmemory_policy") or "noeviction"), int(memory.get("maxmemory") or 0)
    if policy == "noeviction":
        return None
    when = "when its memory is full" if limit else "as soon as a maxmemory is set"
    words = f"maxmemory-policy is {policy}: {when}, Redis forgets what is done"
    return words, "set maxmemory-policy noeviction in redis.conf"


def _persistence(client: Any) -> tuple[str, str] | None:
    if client.info("persistence").get("aof_enabled"):
        return None
    save = setting_of(client, "save")
    fix = "set appendonly yes and appendfsync everysec in redis.conf"
    if save is None:
        return "no append-only file, and the server does not say whether it takes snapshots", fix
    if save:
        return f"only snapshots (save {save}): a crash forgets what was done since the last one", fix
    return "neither append-only file nor snapshots: a restart of Redis forgets what is done", fix
