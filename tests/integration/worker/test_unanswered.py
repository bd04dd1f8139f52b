"""Tasks that run at most once, and a broker that does not answer to their acknowledgement: they do not begin."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness

pytestmark = pytest.mark.own_servers


@pytest.fixture
def losing_on_rabbitmq(rabbitmq_broker: Broker, harness: Harness, result_backend: str) -> Guarded:
    return Guarded(harness, rabbitmq_broker.url, result_backend, {}, "losing")


PATIENCE = 4.0
"""Seconds for which an answer is awaited."""


@contextmanager
def confirmed(losing: Guarded) -> Iterator[Any]:
    """A connection on which a publish returns when its message is safe from a kill of the broker."""
    with losing.app.connection_for_write(transport_options={"confirm_publish": True}) as connection:
        yield connection


def test_a_broker_that_never_heard_of_it_has_it_run_once(losing, broker):
    worker = losing.worker("-c", "1")
    with confirmed(losing) as connection:
        for key in ("held", "next"):
            task = losing.tasks.until_go.apply_async((key,), connection=connection)
            worker.wait_for_log(f"[{task.id}] received")
            losing.wait_for_runs("held", 1)
    broker.server.pause()
    (losing.runs_folder / "go").touch()
    time.sleep(PATIENCE / 2)  # by then it would have begun
    assert losing.runs("next") == []
    worker.kill()
    broker.server.kill()
    broker.server.start()
    losing.worker("-c", "1")
    losing.wait_for_runs("next", 1)
    losing.finish()
    assert len(losing.runs("next")) == 1
    # the dead worker's journal has both: its broker, which was paused, kept it from noting that the first had ended,
    # and whether it took the acknowledgement of the second nobody knows
    for letter in losing.letters_so_far():
        assert letter.reason.value == "worker_lost"
        assert "may have run already" in letter.explanation
        is_next = letter.message.headers["argsrepr"] == "('next',)"
        assert ("the broker may deliver it again" in letter.explanation) is is_next
    assert len(losing.letters_so_far()) <= 2


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_a_broker_that_heard_of_it_later_makes_it_dead(rabbitmq_broker, losing_on_rabbitmq, pool):
    losing = losing_on_rabbitmq
    worker = losing.worker("-c", "1", pool=pool)
    losing.finish()
    worker.signal(signal.SIGSTOP)
    with confirmed(losing) as connection:
        losing.tasks.early.apply_async(("next", "return"), connection=connection)
    time.sleep(1)  # it is with the worker, as bytes that nobody has read
    rabbitmq_broker.server.pause()
    worker.signal(signal.SIGCONT)
    worker.wait_for_log("is spooled")
    rabbitmq_broker.server.resume()
    letter = losing.letter()
    losing.finish()
    assert letter.reason.value == "cancelled"
    assert "did not run here" in letter.explanation
    assert letter.attempts == ()
    assert losing.runs("next") == []
    assert "Traceback" not in worker.log().partition("is spooled")[2].partition("Connection to broker lost")[0]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_what_comes_while_an_answer_is_awaited_is_handled_after_it(losing_on_rabbitmq, pool):
    losing, count = losing_on_rabbitmq, 100
    # Celery looks at a full pool of greenlets ten times a second
    worker = losing.worker("-c", "40" if pool == "gevent" else "2", "--prefetch-multiplier", "0", pool=pool)
    losing.finish()
    worker.signal(signal.SIGSTOP)
    with confirmed(losing) as connection:
        for number in range(count):
            task = (losing.tasks.early, losing.tasks.late)[number % 2]
            task.apply_async((f"many-{number}", "return"), connection=connection)
    worker.signal(signal.SIGCONT)
    losing.finish()
    for number in range(count):
        losing.wait_for_runs(f"many-{number}", 1)
    assert sum(len(losing.runs(f"many-{number}")) for number in range(count)) == count
    losing.no_letters()
    assert "Traceback" not in worker.log()
