"""What a body asks for or leads to while the broker is away: spooled, and done later; and what `raise Retry()` asks."""

from __future__ import annotations

import json

import pytest

from celery_guardrails.transport.spool import Spool
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.waiting import wait_until


def impatient(losing: Guarded) -> dict[str, str]:
    """A worker's variables: with a spool that the test can look into, and little patience."""
    losing.once_each()
    folder = str(losing.runs_folder / "spool")
    chosen = {"queue": f"{losing.prefix}.dead", "spool_dir": folder, "publish_timeout": 1}
    return {"GUARDED_SETTINGS": json.dumps({"dead_letter": chosen})}


def spool_of(losing: Guarded) -> Spool:
    return Spool(losing.runs_folder / "spool", 1 << 30, "losing")


@pytest.mark.own_lines
def test_retry_by_hand_without_a_broker_is_spooled_and_runs_later(losing: Guarded, broker: Broker) -> None:
    worker = losing.worker("-c", "3", env=impatient(losing))
    errback = losing.tasks.errback.s(key="errback")
    losing.tasks.held_early.delay("plain", "retry")
    losing.tasks.held_early.apply_async(("linked", "retry"), link_error=errback)
    losing.tasks.held.apply_async(("late", "retry"), link_error=errback)
    keys = ("plain", "linked", "late")
    for key in keys:
        losing.wait_for_runs(key, 1)
    broker.server.stop()
    (losing.runs_folder / "go").touch()
    spool = spool_of(losing)
    wait_until(lambda: spool.status().entries == 3, 60, lambda: f"three entries: {list(spool.entries())}")
    assert not any(entry.letter for _, entry in spool.entries())
    broker.server.start()
    for key in keys:
        # what is acknowledged late may first come back itself: the worker may hear of its retry only after it
        wait_until(lambda: 1 in [run["retries"] for run in losing.runs(key)], 60, f"the retry of {key}")  # noqa: B023
        assert {run["retries"] for run in losing.runs(key)} == {0, 1}
    wait_until(spool.is_empty, 60, "an empty spool")
    losing.no_letters()
    assert worker.is_running
    assert losing.runs("errback") == []
    assert len(losing.runs("plain")) == len(losing.runs("linked")) == 2


@pytest.mark.own_lines
def test_a_callback_that_cannot_be_sent_is_dead_lettered_and_its_task_not_run_again(
    losing: Guarded, broker: Broker
) -> None:
    how = "link" if broker.name == "redis" else "chain"  # Celery sends both by the same lines, and each takes a minute
    worker = losing.worker("-c", "2", env=impatient(losing))
    done, after = losing.tasks.held_early.s("body", "done"), losing.tasks.heard.s(key="after")
    task = (done | after).apply_async() if how == "chain" else done.apply_async(link=after)
    task_id = task.parent.id if how == "chain" else task.id
    losing.wait_for_runs("body", 1)
    broker.server.stop()
    (losing.runs_folder / "go").touch()
    spool = spool_of(losing)
    wait_until(lambda: spool.status().entries == 1, 90, lambda: f"an entry: {list(spool.entries())}")
    broker.server.start()
    letter = losing.letter(60)
    assert (letter.task_id, letter.reason.value) == (task_id, "result_unstorable")
    assert "the body succeeded" in letter.explanation
    losing.finish(60)
    assert worker.is_running
    assert len(losing.runs("body")) == 1
    assert losing.runs("after") == []


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_retry_that_the_body_raises_itself_is_an_attempt(losing: Guarded, pool: str) -> None:
    losing.worker(pool=pool)
    ids = {losing.tasks.raw_retry.delay(how, how).id for how in ("bare", "exc", "when")}
    letters = losing.letters(3, 60)
    assert {letter.task_id for letter in letters} == ids
    assert {letter.reason.value for letter in letters} == {"attempts_exhausted"}
    for how in ("bare", "exc", "when"):
        assert [run["retries"] for run in losing.runs(how)] == [0, 1]
