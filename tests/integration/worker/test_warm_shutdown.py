"""A warm shutdown hears what its children say last: work that they were given runs once, and is acknowledged."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.guarded import Guarded
from tests.harness import Process
from tests.integration.worker.left import left


def with_work_in_a_pipe(losing: Guarded, how: str) -> tuple[Process, int, str]:
    """A worker that has written late work to its only child, which has not read it; and the work's id."""
    worker = losing.worker("-c", "1")
    losing.finish()
    losing.tasks.heard.apply_async(kwargs={"key": "child"})
    child = int(losing.wait_for_runs("child", 1)[0]["pid"])
    losing.rest()
    os.kill(child, signal.SIGSTOP)
    piped = losing.tasks.late.delay("piped", how)
    worker.wait_for_log(f"[{piped.id}] received")
    # taken in a later turn of the worker's loop: the first is in the child's pipe by then
    behind = losing.tasks.late.delay("behind", "return")
    worker.wait_for_log(f"[{behind.id}] received")
    return worker, child, piped.id


def shut_down(worker: Process, child: int) -> None:
    worker.signal(signal.SIGTERM)
    worker.wait_for_log("Warm shutdown")
    time.sleep(2)  # it turns to its pool meanwhile, and tells nobody; earlier, the test would only be easier
    os.kill(child, signal.SIGCONT)
    assert worker.wait(60) == 0


def test_what_a_child_was_given_runs_once(losing: Guarded) -> None:
    shut_down(*with_work_in_a_pipe(losing, "return")[:2])
    assert len(losing.runs("piped")) == 1
    assert left(losing) == 1, "what ran is not acknowledged"
    again = losing.worker("-c", "1")
    losing.wait_for_runs("behind", 1)
    losing.finish()
    assert len(losing.runs("piped")) == len(losing.runs("behind")) == 1
    losing.no_letters()
    assert again.stop() == 0
    assert left(losing) == 0


@pytest.mark.parametrize("how", ["kill_child", "exit"])
def test_what_ends_its_child_then_is_dead_lettered_once(losing: Guarded, how: str) -> None:
    worker, child, piped = with_work_in_a_pipe(losing, how)
    shut_down(worker, child)
    losing.worker("-c", "1")
    losing.wait_for_runs("behind", 1)
    letter = losing.letter()
    assert letter.task_id == piped
    losing.finish()
    assert len(losing.letters(1)) == 1
