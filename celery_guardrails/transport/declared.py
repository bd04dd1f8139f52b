"""Which of an application's queues Celery itself declares, when a worker starts and when a producer publishes.

Celery ends when RabbitMQ refuses a declaration, even of a queue that exists, unless the queue says `no_declare`. Owns
which queues do not say it, and how they are written with it.
"""

from __future__ import annotations

from celery import Celery
from kombu import Exchange, Queue

__all__ = ["declared_by_celery", "exchange_declared_with", "undeclared_line"]


def declared_by_celery(app: Celery) -> list[Queue]:
    """The lasting queues that Celery declares, with their exchanges; without queues that only `-Q` names."""
    queues = app.amqp.queues.values()
    return [each for each in queues if not (each.no_declare or each.exclusive or each.auto_delete)]


def exchange_declared_with(queue: Queue) -> str | None:
    """The exchange that Celery declares before this queue; `None`: it declares no exchange."""
    exchange = queue.exchange
    if exchange is None or not exchange.name or exchange.no_declare or exchange.name.startswith("amq."):
        return None
    return str(exchange.name)


def undeclared_line(queue: Queue) -> str:
    """This queue as an entry of `task_queues` that Celery does not declare. Further bindings are left out."""
    words = [_quoted(queue.name)]
    if queue.exchange is not None and queue.exchange.name:
        words.append(_exchange(queue.exchange))
    words.append(f"routing_key={_quoted(queue.routing_key or '')}")
    if queue.queue_arguments:
        words.append(f"queue_arguments={queue.queue_arguments!r}")
    if queue.max_priority is not None:
        words.append(f"max_priority={queue.max_priority}")
    return f"Queue({', '.join([*words, 'no_declare=True'])})"


def _exchange(exchange: Exchange) -> str:
    kind = "" if exchange.type == "direct" else f"type={_quoted(exchange.type)}, "
    return f"Exchange({_quoted(exchange.name)}, {kind}no_declare=True)"


def _quoted(text: str) -> str:
    """A Python literal, in double quotes if the text allows it."""
    literal = repr(text)
    return literal if '"' in literal or "\\" in literal else f'"{literal[1:-1]}"'
