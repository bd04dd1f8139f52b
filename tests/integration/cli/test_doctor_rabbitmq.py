"""`guardrails doctor` on a RabbitMQ: what waits for queues that were made anew."""

from __future__ import annotations

from collections.abc import Callable

from kombu import Queue

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.routing import delay_word
from tests.conftest import Broker
from tests.integration.cli.ward import Ward


def test_what_waits_in_the_levels_for_a_queue_that_was_made_anew(
    rabbitmq_broker: Broker, ward: Callable[..., Ward]
) -> None:
    remade = ward(rabbitmq_broker.url)
    guard = Guardrails.of(remade.app)
    for delay in (20, 20, 900):
        guard.waiting.publish(Envelope(b"x", "ward.tasks"), [Queue("ward.tasks", routing_key="ward.tasks")], delay)
    with remade.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_delete("ward.tasks")
        expected = "celery_delayed_4, celery_delayed_9: 3 messages wait for the queue ward.tasks, which does not exist"
        assert remade.wrong()["waiting"] == [expected]
        channel.queue_declare("ward.tasks", durable=True, auto_delete=False)
    assert "3 messages wait for the queue ward.tasks, which is bound" in remade.look()["waiting"][1].found
    delayed = Envelope(b"due", "0." * 28 + delay_word("ward.tasks"), exchange="celery_delayed_delivery")
    guard.publisher.publish(delayed)  # which raises where no queue is bound
    guard.publisher.close()
