"""Whole workers that die: what had begun is counted or was acknowledged, what only waited is neither."""

from __future__ import annotations

import pytest

from tests.waiting import wait_until


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_what_waits_in_workers_that_die_is_not_blamed(losing, pool):
    slow = losing.tasks.slow.delay("slow", 600)
    others = [losing.tasks.slow.delay(f"other-{number}", 0.05) for number in range(3)]
    for deaths in range(1, 4):
        worker = losing.worker("-c", "1", pool=pool)
        losing.wait_for_runs("slow", deaths, 60)
        for number, other in enumerate(others):  # all of them are in this worker's hands, or were run before
            taken = f"[{other.id}] received"
            wait_until(lambda: taken in worker.log() or losing.runs(f"other-{number}"), 30, "they are taken")  # noqa: B023
        worker.kill()
    losing.worker("-c", "1", pool=pool)
    (letter,) = losing.letters(1, 60)
    assert (letter.task_id, letter.reason.value) == (slow.id, "worker_lost")
    assert letter.explanation == "it was running in 3 workers when they were lost; max_crashes is 3"
    for number in range(len(others)):
        losing.wait_for_runs(f"other-{number}.done", 1, 60)
    losing.finish()
    losing._receive(0.3)
    assert len(losing._letters) == 1
    assert len(losing.runs("slow")) == 3


@pytest.mark.parametrize("pool", ["solo", "threads", "gevent"])
def test_what_runs_at_most_once_does_so_in_a_pool_without_children(losing, pool):
    once = losing.tasks.slow_early.delay("once", 600)
    worker = losing.worker("-c", "1", pool=pool)
    losing.wait_for_runs("once", 1)
    worker.kill()
    losing.worker("-c", "1", pool=pool)
    losing.tasks.slow.delay("behind", 0)
    losing.wait_for_runs("behind.done", 1)
    letter = losing.letter()
    assert (letter.task_id, letter.reason.value) == (once.id, "worker_lost")
    losing.no_more_letters(1)
    assert len(losing.runs("once")) == 1
