"""A hard time limit is told of once: by the letter, the task's hooks, its errbacks and the signals."""

from __future__ import annotations

from tests.guarded import Guarded
from tests.integration.worker.left import left
from tests.waiting import wait_until


def test_a_hard_limit_is_told_to_the_signal_and_the_errback_once(losing: Guarded) -> None:
    worker = losing.worker("-c", "2")
    errback = losing.tasks.errback.s(key="told.errback")
    task = losing.tasks.told.apply_async(("told", "hang"), link_error=errback)
    letter = losing.letter()
    assert (letter.task_id, letter.reason.value) == (task.id, "time_limit")
    wait_until(lambda: losing.app.AsyncResult(task.id).state == "FAILURE", 30, "its state")
    losing.wait_for_runs("told.errback", 1)
    losing.finish()
    worker.stop()
    assert len(losing.runs("told")) == len(losing.runs("told.errback")) == len(losing.runs("told.task_failure")) == 1
    assert left(losing) == 0
