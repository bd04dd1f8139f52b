"""Worker settings with which time limits, acknowledgement or shutdown do not work as people expect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

from celery import Task

from celery_guardrails.cli.doctor.checks.time_limit import hard_limit, limited, named
from celery_guardrails.cli.doctor.context import BrokerAway, Context
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, warning
from celery_guardrails.clock import shown

__all__ = ["acknowledgement", "heartbeat", "running", "settings", "shutdown", "time_limits"]

_UNLIMITED = {
    "threads": "the threads pool enforces no time limit",
    "solo": "the solo pool enforces no time limit",
    "gevent": "the gevent pool enforces no soft time limit",
    "eventlet": "the eventlet pool enforces no soft time limit",
}


def settings(context: Context) -> Iterator[Finding]:
    """The settings and policies, as `guardrails check` finds them."""
    for found in context.guardrails.faults():
        yield fault(str(found), f"see: {context.project.typed('check')}")
    if not context.settings.enabled:
        yield warning("enabled is False: every guarded task behaves as a plain one", "set enabled to True")
    if context.conf.task_always_eager:
        yield warning("task_always_eager is on: tasks run in their caller, never in a worker", "set it only in tests")


def running(context: Context) -> Iterator[Finding]:
    """The workers that answer now."""
    if pools := context.pools:
        yield fine(", ".join(f"{node} ({pool})" for node, pool in sorted(pools.items())))
    elif context.unasked:
        fix = (
            f"{context.rights_fix(declare=False)}; or set worker_enable_remote_control=False and start workers with "
            "--without-mingle --without-gossip"
        )
        yield warning(f"which workers run is not known: {context.unasked}", fix)


def time_limits(context: Context) -> Iterator[Finding]:
    """Time limits where the pool does not enforce them: as configured, and of the workers that answer."""
    for pool, where in _pools(context).items():
        if pool not in _UNLIMITED:
            continue
        green = pool in ("gevent", "eventlet")
        tasks = [task for task in context.tasks if (_soft(task) if green else limited(task))]
        if tasks:
            yield warning(
                f"{_UNLIMITED[pool]} ({where}): the limit of {named(tasks)} has no effect",
                "use the prefork pool, or timeouts in the task's own code",
            )


def heartbeat(context: Context) -> Iterator[Finding]:
    """Heartbeats that a solo worker cannot send while it runs a task, against the time that a task may take."""
    where, seconds = _pools(context).get("solo"), float(context.conf.broker_heartbeat or 0)
    if context.transport != "amqp" or where is None or not seconds:
        return
    if long := [task for task in context.tasks if _outlasts(task, timedelta(seconds=seconds))]:
        yield warning(
            f"the solo pool ({where}) sends no heartbeat while a task runs: RabbitMQ closes the connection after two "
            f"missed heartbeats of {seconds:g} s, and {named(long)} may run longer",
            "use the prefork or threads pool, or set broker_heartbeat = 0, which leaves a dead connection unnoticed",
        )


def acknowledgement(context: Context) -> Iterator[Finding]:
    """Settings that leave a failed, timed out or lost task unacknowledged, or throw it away."""
    late = [task for task in context.exposed if task.acks_late]
    if stuck := [task for task in late if _never(task, "acks_on_timeout")]:
        yield warning(
            f"acks_on_timeout is off for {named(stuck)}: a task that hits its hard time limit is redelivered endlessly",
            "leave task_acks_on_timeout and task_acks_on_failure_or_timeout on, or put the task under guard",
        )
    if dropped := [task for task in late if _never(task, "acks_on_failure")]:
        yield warning(
            f"acks_on_failure is off for {named(dropped)}: a failed task is rejected, and most brokers delete it",
            "leave task_acks_on_failure on, or put the task under guard",
        )
    if requeued := [task for task in late if task.reject_on_worker_lost]:
        yield warning(
            f"reject_on_worker_lost is on for {named(requeued)}: a task that kills its worker is redelivered endlessly",
            "leave task_reject_on_worker_lost unset, or put the task under guard: max_crashes of its policy ends this",
        )


def shutdown(context: Context) -> Iterator[Finding]:
    """A cold shutdown, against tasks that were acknowledged before they ran."""
    soft = timedelta(seconds=float(context.conf.worker_soft_shutdown_timeout or 0))
    for tasks, ends in ((context.exposed, "loses"), (_others(context), "stops and dead-letters")):
        early = [task for task in tasks if not task.acks_late and _outlasts(task, soft)]
        if early and not soft:
            yield warning(
                f"worker_soft_shutdown_timeout is 0: a cold shutdown {ends} a running task that is acknowledged early, "
                f"such as {named(early)}",
                'set worker_soft_shutdown_timeout = 10, or acknowledge late (acks="late", task_acks_late)',
            )
        elif early:
            yield fine(f"a cold shutdown waits {shown(soft)} for running tasks; {named(early)} may take longer")


def _pools(context: Context) -> dict[str, str]:
    """The configured pool and the pools of the workers that answer, each with the setting or worker that names it."""
    pools = {str(context.conf.worker_pool): "worker_pool"}
    if context.online:
        with suppress(BrokerAway):
            pools |= {pool: node for node, pool in context.pools.items()}
    return pools


def _others(context: Context) -> list[Task]:
    """The tasks that guardrails protects."""
    exposed = {task.name for task in context.exposed}
    return [task for task in context.tasks if task.name not in exposed]


def _soft(task: Task) -> bool:
    return bool(task.soft_time_limit or task.app.conf.task_soft_time_limit)


def _outlasts(task: Task, soft: timedelta) -> bool:
    limit = hard_limit(task)
    return limit is None or limit > soft.total_seconds()


def _never(task: Task, name: str) -> bool:
    """Whether this acknowledgement is off, by its name in Celery 5.7 or by the older `acks_on_failure_or_timeout`."""
    value = getattr(task, name, None)
    if value is None:
        value = task.acks_on_failure_or_timeout
    return value is False
