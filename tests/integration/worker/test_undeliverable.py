"""A dead letter that the broker refuses is spooled; where the spool takes it neither, the work stays where it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery.result import AsyncResult

from celery_guardrails.transport.spool import Spool
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.waiting import wait_until


def taken(guarded: Guarded) -> None:
    """Have the dead-letter queue exist with other arguments, so that nothing can be written to it as declared."""
    with guarded.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_declare("taken.dead", durable=True, auto_delete=False, arguments={"x-max-length": 1})


def mend(guarded: Guarded) -> None:
    """Delete that queue."""
    with guarded.app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_delete("taken.dead")


@pytest.fixture
def guarded(rabbitmq_broker: Broker, make_guarded: Callable[..., Guarded], request: pytest.FixtureRequest) -> Guarded:
    """Its dead-letter queue is refused; the spool may take so many bytes."""
    made = make_guarded(
        rabbitmq_broker, dead_letter={"queue": "taken.dead", "publish_timeout": 1, "spool_limit": request.param}
    )
    made.prefix = "taken"  # by which it finds its letters
    taken(made)
    return made


@pytest.mark.parametrize("guarded", [1_000_000], indirect=True)
def test_a_refused_letter_is_spooled_and_shipped_when_it_is_mended(guarded: Guarded) -> None:
    worker = guarded.worker()
    result: AsyncResult = guarded.tasks.bug.delay("bug")
    wait_until(lambda: result.state == "FAILURE", 30, "the failure: the letter is safe, so it is told")
    spool = Spool(guarded.harness.folder / "guardrails.spool", 1 << 30, "guarded")
    assert spool.status().entries == 1
    worker.wait_for_log("stays in the spool")
    assert len(guarded.runs("bug")) == 1
    mend(guarded)
    assert guarded.letter().task == "guarded.bug"
    wait_until(spool.is_empty, 30, "an empty spool")
    assert worker.log().count("stays in the spool") == 1


@pytest.mark.parametrize("guarded", [9], indirect=True)
def test_with_a_full_spool_a_refused_letter_leaves_the_message_unacknowledged(guarded: Guarded) -> None:
    worker = guarded.worker()
    result: AsyncResult = guarded.tasks.bug.delay("bug")
    guarded.wait_for_runs("bug", 3)
    # neither the result backend nor anybody else has heard of a failure: the letter comes first
    assert result.state == "PENDING"
    mend(guarded)
    wait_until(lambda: result.state == "FAILURE", 30, "the failure, once the letter is written")
    worker.stop()
    assert guarded.letter().task == "guarded.bug"
    with guarded.app.connection_for_read() as connection, connection.channel() as channel:
        assert channel.queue_declare(guarded.app.conf.task_default_queue, passive=True).message_count == 0
