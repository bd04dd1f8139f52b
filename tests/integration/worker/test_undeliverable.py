"""When the broker takes neither a retry nor a dead letter, the work stays where it is."""

from __future__ import annotations

from collections.abc import Callable

from celery.result import AsyncResult

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.waiting import wait_until


def test_a_refused_letter_leaves_the_message_unacknowledged(
    rabbitmq_broker: Broker, make_guarded: Callable[..., Guarded]
) -> None:
    """The dead-letter queue exists with other arguments, so that nothing can be written to it as declared."""
    guarded = make_guarded(rabbitmq_broker, dead_letter={"queue": "taken", "publish_timeout": 1})
    with guarded.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_declare("taken", durable=True, auto_delete=False, arguments={"x-max-length": 1})
    worker = guarded.worker()
    result: AsyncResult = guarded.tasks.bug.delay("bug")
    guarded.wait_for_runs("bug", 3)
    # neither the result backend nor anybody else has heard of a failure: the letter comes first
    assert result.state == "PENDING"
    with guarded.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_delete("taken")
    wait_until(lambda: result.state == "FAILURE", 30, "the failure, once the letter is written")
    worker.stop()
    with guarded.app.connection_for_read() as connection, connection.channel() as channel:
        assert channel.queue_declare("taken", passive=True).message_count == 1
        assert channel.queue_declare(f"{guarded.prefix}.tasks", passive=True).message_count == 0
