"""How retries wait on this broker, and what Celery's own eta does beside it."""

from __future__ import annotations

from collections.abc import Iterator

from amqp.exceptions import AccessRefused
from kombu import Queue

from celery_guardrails.cli.doctor.context import BrokerAway, Context
from celery_guardrails.cli.doctor.finding import Finding, fault, fine, warning
from celery_guardrails.text import count_of
from celery_guardrails.transport.lack import Lack
from celery_guardrails.transport.right import refusal
from celery_guardrails.transport.waiting.level import Held, Led, are_there, held, is_queue, lead

__all__ = ["eta_limit", "levels", "way"]


def way(context: Context) -> Iterator[Finding]:
    """Whether retries wait outside the workers."""
    waiting = context.guardrails.waiting
    if context.transport == "memory":
        return  # the check of the broker reports it
    if lacking := _lacking(context):
        yield fault(f"retries do not wait outside the workers: {lacking}", context.rights_fix())
    elif waiting.outside:
        yield fine(f"retries wait outside the workers: {waiting.name}")
        if context.transport == "amqp" and context.conf.broker_native_delayed_delivery_queue_type == "classic":
            yield warning(
                "the delay levels are classic queues: RabbitMQ drops what is due while its queue is missing",
                'leave broker_native_delayed_delivery_queue_type "quorum", and delete the levels once they are empty',
            )
    else:
        yield warning(
            f"retries wait by {waiting.name}: they stay in this worker, and keep other tasks from running",
            "use Redis or RabbitMQ, or keep delays short",
        )


def _lacking(context: Context) -> Lack | None:
    try:
        return next((lack for lack in context.lacks if lack.subject == "waiting"), None)
    except BrokerAway:
        return None  # the check of the broker reports it


def levels(context: Context) -> Iterator[Finding]:
    """What waits in RabbitMQ's delay levels, and whether it will reach its queue.

    AMQP does not say what is bound to which queue, so this binds each queue, as a worker does when it connects.
    """
    if context.transport != "amqp" or not are_there(context.broker.connection):
        return
    connection = context.broker.connection
    known = {queue.name: queue for queue in context.app.amqp.queues.values()}
    try:
        waits = held(context.app, connection)
    except AccessRefused as exc:
        yield warning(
            f"what waits in the delay levels cannot be read: {refusal(exc)}", context.rights_fix(declare=False)
        )
        waits = []
    known |= {one.queue: Queue(one.queue) for one in waits if one.queue and one.queue not in known}
    there = [queue for name, queue in known.items() if is_queue(connection, name)]
    led = lead(context.app, connection, there)
    for one in waits:
        if one.queue is not None:
            yield _waits(context, one, led, {queue.name for queue in there})
    for name in led.refused.keys() - {one.queue for one in waits}:
        found = f"if the queue {name} is declared anew, retries do not reach it: {refusal(led.refused[name])}"
        yield warning(found, context.rights_fix(declare=False))


def _waits(context: Context, one: Held, led: Led, there: set[str]) -> Finding:
    count = count_of(one.count, "message waits", "messages wait")
    words = f"{', '.join(one.levels)}: {count} for the queue {one.queue}"
    if one.queue not in there:
        fix = "start a worker that consumes it, which declares and binds it; until then they go round in the levels"
        return fault(f"{words}, which does not exist", fix)
    if (refused := led.refused.get(str(one.queue))) is not None:
        return fault(f"{words}, which may not be bound to them: {refusal(refused)}", context.rights_fix(declare=False))
    return fine(f"{words}, which is bound to the levels (doctor has just made sure of it)")


def eta_limit(context: Context) -> Iterator[Finding]:
    """`worker_eta_task_limit`: when it is reached, tasks that could run at once wait, too."""
    limit = context.conf.get("worker_eta_task_limit")
    if limit is None or (context.guardrails.waiting.outside and not context.plain):
        return
    yield warning(
        f"worker_eta_task_limit is {limit}: behind {limit} plain tasks with an eta, tasks without an eta wait, too",
        "leave worker_eta_task_limit unset, or put tasks that are sent with a countdown or eta under guard",
    )
