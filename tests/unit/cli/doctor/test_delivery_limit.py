"""Quorum queues that drop what came back too often: by an argument of theirs, or by default since RabbitMQ 4."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from kombu import Queue

from celery_guardrails.cli.doctor.checks import rabbitmq
from celery_guardrails.cli.doctor.context import Answered, Context
from tests.unit.cli.doctor.conftest import Offline

QUORUM = {"x-queue-type": "quorum"}


def answered(context: Context, version: str) -> Context:
    """The same, on a server of this version."""
    connection = SimpleNamespace(connection=SimpleNamespace(server_properties={"version": version}))
    context.online = True
    context.__dict__["_opened"] = Answered(cast(Any, connection))
    return context


def found(context: Context) -> list[tuple[str, str]]:
    findings = [(finding.found, finding.fix) for finding in rabbitmq.queue_limits(context)]
    context.__dict__.pop("_opened", None)
    return findings


def with_queue(offline: Offline, arguments: dict[str, Any]) -> Context:
    return offline("amqp", task_queues=[Queue("work", queue_arguments=arguments)])


@pytest.mark.parametrize("limit", [0, 1, 20])
def test_a_limit_that_is_asked_for(offline: Offline, limit: int) -> None:
    ((words, fix),) = found(with_queue(offline, {**QUORUM, "x-delivery-limit": limit}))
    times = "1 time" if limit == 1 else f"{limit} times"
    assert words == (
        f"work is a quorum queue with x-delivery-limit {limit}: RabbitMQ silently drops a message that came back "
        f"{times}"
    )
    assert 'no x-delivery-limit (RabbitMQ 4: "x-delivery-limit": -1)' in fix


@pytest.mark.parametrize(
    "arguments",
    [
        QUORUM,
        {**QUORUM, "x-delivery-limit": -1},
        {**QUORUM, "x-delivery-limit": 3, "x-dead-letter-exchange": "dlx"},
        {"x-delivery-limit": 3},
    ],
)
def test_no_limit_as_far_as_one_can_see_without_a_server(offline: Offline, arguments: Any) -> None:
    assert found(with_queue(offline, arguments)) == []


@pytest.mark.parametrize(("version", "warned"), [("3.10.8", 0), ("3.13.7", 0), ("4.0.0", 1), ("4.1.2-rc.1", 1)])
def test_the_default_of_rabbitmq_4(offline: Offline, version: str, warned: int) -> None:
    findings = found(answered(with_queue(offline, dict(QUORUM)), version))
    assert len(findings) == warned
    for words, fix in findings:
        assert words.startswith("work is a quorum queue: RabbitMQ silently drops a message that came back 20 times")
        assert fix.startswith('declare it with "x-delivery-limit": -1')
    assert found(answered(with_queue(offline, {**QUORUM, "x-delivery-limit": -1}), version)) == []
    assert found(answered(with_queue(offline, {}), version)) == []


def test_dead_letter_queues_too(offline: Offline) -> None:
    context = offline("amqp", guardrails={"dead_letter": {"queue_arguments": QUORUM}})
    ((words, _),) = found(answered(context, "4.0.3"))
    assert words.startswith("celery.dead_letter is a quorum queue")


def test_the_queue_type_that_celery_sets(offline: Offline) -> None:
    context = offline("amqp", task_default_queue_type="quorum", task_default_exchange_type="topic")
    assert [words.split()[0] for words, _ in found(answered(context, "4.0.3"))] == ["celery"]
