"""A spooled retry of work that runs at most once: whoever ships it may die over it, and it does not run twice."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from celery_guardrails.policy.decision import Reason
from celery_guardrails.transport.disk import slug
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.integration.worker.test_spooling import (
    EARLY_AGAIN,
    IMPATIENT,
    LATE_AGAIN,
    fail_without_broker,
    hold,
    impatient,
    kill,
    spool_of,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.own_lines


def test_in_doubt_it_is_a_letter_and_does_not_run_again(broker: Broker, make_guarded: Callable[..., Guarded]) -> None:
    guarded = impatient(make_guarded(broker, dead_letter=IMPATIENT))
    worker = guarded.worker("-c", "4")
    hold(guarded)
    fail_without_broker(guarded, broker)
    kill(worker)
    spool = spool_of(guarded)
    (early,) = [path for path, found in spool.entries() if found.envelope.once and not found.letter]
    (late,) = [path for path, found in spool.entries() if not found.envelope.once and not found.letter]
    for path in (early, late):  # as if the worker had died while it published them
        path.rename(f"{path}.shipping-{worker.pid}@{slug(socket.gethostname())}")
    broker.server.start()
    another = guarded.worker("-c", "4")
    wait_until(spool.is_empty, 60, lambda: f"an empty spool: {list(spool.entries())}")
    guarded.wait_for_runs(LATE_AGAIN, 2)

    def doubtful() -> list[object]:
        return [letter for letter in guarded.letters(1) if letter.reason is Reason.RETRY_UNPUBLISHABLE]

    wait_until(lambda: len(doubtful()) == 1, 60, lambda: f"its letter: {guarded.letters(1)}")
    (letter,) = [letter for letter in guarded.letters(1) if letter.reason is Reason.RETRY_UNPUBLISHABLE]
    assert (letter.task, letter.may_have_run) == ("guarded.held_early", True)
    assert letter.explanation.startswith("the task runs at most once, and attempt 2 may have been published already")
    assert [attempt.number for attempt in letter.attempts] == [1]
    assert (letter.queue, letter.message.headers["retries"]) == (guarded.app.conf.task_default_queue, 1)
    assert EARLY_AGAIN in letter.preview.args
    guarded.finish()
    assert len(guarded.runs(EARLY_AGAIN)) == 1
    assert another.log().count("is dead-lettered as retry_unpublishable") == 1
