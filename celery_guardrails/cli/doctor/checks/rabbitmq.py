"""Queues and settings of RabbitMQ with which it drops messages or closes channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from kombu import Queue

from celery_guardrails.cli.doctor.checks.time_limit import hard_limit, named
from celery_guardrails.cli.doctor.context import BrokerAway, Context
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, warning
from celery_guardrails.clock import shown
from celery_guardrails.text import count_of

__all__ = ["consumer_timeout", "durability", "queue_limits"]

_DEFAULT = timedelta(minutes=30)
_FIRST_DEFAULT = timedelta(minutes=15)
_ARGUMENT = "x-consumer-timeout"
_HERE = f'Queue(..., queue_arguments={{"{_ARGUMENT}": milliseconds}}) (RabbitMQ 3.12)'
_LIMIT = "x-delivery-limit"
_DEFAULT_LIMIT = 20
_DURABLE = "declare it with durable=True, auto_delete=False, exclusive=False"


def consumer_timeout(context: Context) -> Iterator[Finding]:
    """Late acknowledgement against `consumer_timeout`, after which RabbitMQ closes the channel of the consumer."""
    if context.transport != "amqp":
        return
    timeout, origin = _timeout(context)
    if timeout is None:
        return
    late = [task for task in context.tasks if task.acks_late]
    endless = [task for task in late if hard_limit(task) is None]
    long = [task for task in late if (limit := hard_limit(task)) and limit > timeout.total_seconds()]
    words = f"RabbitMQ closes the channel when a task is not acknowledged within {shown(timeout)} ({origin})"
    fix = f"give it a time_limit below {shown(timeout)}, or raise consumer_timeout in rabbitmq.conf and here: {_HERE}"
    if long:
        yield warning(f"{words}: {named(long)} may run longer, and is then redelivered while it runs", fix)
    if endless:
        yield warning(f"{words}: {named(endless)} has no time limit; a task that runs longer is redelivered", fix)
    multiplier = context.conf.worker_prefetch_multiplier
    behind = [t for t in late if multiplier != 1 and t not in long and _may_wait(t, multiplier, timeout)]
    if behind:
        yield warning(
            f"{words}: with worker_prefetch_multiplier {multiplier}, {named(behind)} may wait longer in a worker",
            "set worker_prefetch_multiplier = 1",
        )
    if not (long or endless or behind):
        yield fine(f"consumer_timeout {shown(timeout)} ({origin}) is longer than every late-acknowledged task may run")


def _may_wait(task: Any, multiplier: int, timeout: timedelta) -> bool:
    """Whether a worker may hold the task for longer: it waits behind the tasks that are prefetched for its process."""
    limit = hard_limit(task)
    return limit is not None and (multiplier == 0 or limit * multiplier > timeout.total_seconds())


def durability(context: Context) -> Iterator[Finding]:
    """Queues and messages that do not outlive a restart of the broker."""
    if context.transport != "amqp":
        return
    queues = list(_queues(context).values())
    fleeting = [q.name for q in queues if not q.durable or q.auto_delete or q.exclusive]
    transient = [q.name for q in queues if q.exchange is not None and q.exchange.delivery_mode in (1, "transient")]
    if context.conf.task_default_delivery_mode in (1, "transient"):
        yield fault("messages are transient: a restart of RabbitMQ loses them", "set task_default_delivery_mode = 2")
    if transient:
        names = ", ".join(transient)
        yield fault(f"messages of {names} are transient: a restart loses them", "give its exchange delivery_mode=2")
    if fleeting:
        names = ", ".join(fleeting)
        yield fault(f"the queue {names} is not durable: it ends with the broker, or with its last consumer", _DURABLE)
    if not fleeting and not transient and context.conf.task_default_delivery_mode == 2:
        yield fine(f"queues are durable and messages persistent: {', '.join(q.name for q in queues)}")


def queue_limits(context: Context) -> Iterator[Finding]:
    """Queue arguments by which RabbitMQ throws messages away."""
    if context.transport != "amqp":
        return
    arguments = {name: dict(queue.queue_arguments or {}) for name, queue in _queues(context).items()}
    arguments |= {name: dict(context.settings.dead_letter.queue_arguments) for name in context.dead_letter_queues}
    for name, given in arguments.items():
        if "x-dead-letter-exchange" in given:
            continue
        for key in ("x-message-ttl", "x-expires"):
            if key in given:
                yield warning(f"{name} has {key}: RabbitMQ silently drops what waits longer", f"remove {key}")
        bounds = [key for key in ("x-max-length", "x-max-length-bytes") if key in given]
        if bounds and not str(given.get("x-overflow", "drop-head")).startswith("reject-publish"):
            fix = 'add "x-overflow": "reject-publish"'
            yield warning(f"{name} has {bounds[0]}: a full queue silently drops its oldest message", fix)
        yield from _delivery_limit(name, given, _version(context))


def _delivery_limit(name: str, given: Mapping[str, Any], version: tuple[int, ...] | None) -> Iterator[Finding]:
    """How often a message may come back to a quorum queue before it is dropped. Each lost connection brings it back.

    The default is no limit before RabbitMQ 4, and 20 times since. RabbitMQ 4 takes -1 as no limit.
    """
    if given.get("x-queue-type") != "quorum":
        return
    is_new = version is not None and version >= (4,)
    limit = given.get(_LIMIT, _DEFAULT_LIMIT if is_new else None)
    if not isinstance(limit, int) or limit < 0:
        return
    times = count_of(limit, "time")
    words = f"{name} is a quorum queue with {_LIMIT} {limit}" if _LIMIT in given else f"{name} is a quorum queue"
    words += f": RabbitMQ silently drops a message that came back {times}"
    without = f'"{_LIMIT}": -1' if is_new else f"no {_LIMIT}"
    without += "" if version else f' (RabbitMQ 4: "{_LIMIT}": -1)'
    yield warning(
        words, f"declare it with {without} in its queue_arguments; delete an existing queue and declare it again"
    )


def _queues(context: Context) -> Mapping[str, Queue]:
    known: Mapping[str, Queue] = context.app.amqp.queues
    return known


def _timeout(context: Context) -> tuple[timedelta | None, str]:
    """The server's consumer_timeout, as far as it can be known: AMQP does not say it."""
    given = [(q.queue_arguments or {}).get(_ARGUMENT) for q in _queues(context).values()]
    if given and all(isinstance(value, int) and value > 0 for value in given):
        return timedelta(milliseconds=min(value for value in given if value)), "of its queues"
    version = _version(context)
    if version is None or version >= (3, 8, 17):
        return _DEFAULT, "its default"
    return (_FIRST_DEFAULT, "its default") if version >= (3, 8, 15) else (None, "")


def _version(context: Context) -> tuple[int, ...] | None:
    """The server's version, where it was asked already or a check may ask it."""
    if not context.online:
        return None
    try:
        text = str(context.broker.connection.connection.server_properties.get("version", ""))
        return tuple(int(part) for part in text.split("-")[0].split(".")[:3])
    except (BrokerAway, ValueError):
        return None
