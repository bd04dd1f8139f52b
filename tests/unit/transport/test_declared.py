"""What Celery declares of an application's queues, and the lines that keep it from it."""

from __future__ import annotations

import ast

import pytest
from celery import Celery
from kombu import Exchange, Queue

from celery_guardrails.transport.declared import declared_by_celery, exchange_declared_with, undeclared_line


def app_of(*queues: Queue) -> Celery:
    app = Celery("declaring", broker="memory://", set_as_current=False)
    if queues:
        app.conf.task_queues = queues
    return app


def test_the_default_queue_is_declared_with_its_exchange() -> None:
    (queue,) = declared_by_celery(app_of())
    assert (queue.name, exchange_declared_with(queue)) == ("celery", "celery")
    assert undeclared_line(queue) == (
        'Queue("celery", Exchange("celery", no_declare=True), routing_key="celery", no_declare=True)'
    )


def test_those_that_say_so_and_those_of_a_moment_are_not_listed() -> None:
    work = Queue("work", Exchange("work", no_declare=True), routing_key="work", no_declare=True)
    assert declared_by_celery(app_of(work, Queue("reply", exclusive=True), Queue("brief", auto_delete=True))) == []


@pytest.mark.parametrize("exchange", [Exchange("work", no_declare=True), Exchange("amq.topic", "topic"), Exchange("")])
def test_an_exchange_that_celery_leaves_alone_is_none(exchange: Exchange) -> None:
    assert exchange_declared_with(Queue("work", exchange, routing_key="work")) is None


@pytest.mark.parametrize(
    "queue",
    [
        Queue("work", Exchange("work"), routing_key="work"),
        Queue("it's", Exchange("topics", type="topic"), routing_key="it.#"),
        Queue("q", Exchange("x"), routing_key="q", queue_arguments={"x-queue-type": "quorum"}, max_priority=5),
    ],
    ids=lambda queue: queue.name,
)
def test_the_line_makes_the_same_queue_that_celery_leaves_alone(queue: Queue) -> None:
    line = undeclared_line(queue)
    assert ast.parse(line, mode="eval")
    made = eval(line, {"Queue": Queue, "Exchange": Exchange})
    for name in ("name", "routing_key", "queue_arguments", "max_priority"):
        assert getattr(made, name) == getattr(queue, name)
    assert (made.exchange.name, made.exchange.type) == (queue.exchange.name, queue.exchange.type)
    assert made.no_declare
    assert made.exchange.no_declare
    assert declared_by_celery(app_of(made)) == []
