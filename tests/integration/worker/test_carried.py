"""`map`, `starmap` and `chunks` of a guarded task, on real workers: its policy, one letter for the message."""

import time
from typing import Any

import pytest
from celery.result import AsyncResult

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness


@pytest.fixture
def carried(harness: Harness, broker: Broker, result_backend: str) -> Guarded:
    made = Guarded(harness, broker.url, result_backend, {}, module="carried")
    made.app.finalize()
    return made


def customers(carried: Guarded, key: str) -> list[int]:
    return [run["customer"] for run in carried.runs(key)]


def test_an_item_that_goes_on_failing_makes_one_letter_with_all_items(carried: Guarded) -> None:
    carried.break_("k")
    result = carried.tasks.charge.starmap([("k", 1, "secret-1"), ("k", 2, "secret-2"), ("k", 3, "")]).apply_async()
    carried.worker()
    letter = carried.letter()
    assert (letter.task, letter.reason.value, letter.task_id) == ("shop.charge", "attempts_exhausted", result.id)
    assert len(letter.attempts) == 3
    assert letter.message.headers["task"] == "celery.starmap"
    # the third has no secret, which people may see
    assert letter.preview.args == (
        "celery.starmap, 3 items: [('k', 1, '[redacted]'), ('k', 2, '[redacted]'), ('k', 3, '')]"
    )
    assert letter.affected == {"customer": ("1", "2", "3")}
    assert customers(carried, "k") == [1, 2] * 3


def test_chunks_that_recover_by_a_retry_give_their_results(carried: Guarded) -> None:
    carried.break_("k")
    result = carried.tasks.charge.chunks([("k", n) for n in range(1, 5)], 2).apply_async()
    carried.worker()
    carried.wait_for_runs("k", 3)
    carried.repair("k")
    assert result.get(timeout=60) == [[1, 2], [3, 4]]
    carried.no_letters()


def test_each_end_outside_the_body_leaves_a_letter(carried: Guarded) -> None:
    sent: dict[str, AsyncResult[Any]] = {}
    for how, options in (("hang", {"time_limit": 2}), ("kill", {}), ("reject", {}), ("late", {"expires": -1})):
        sent[how] = carried.tasks.end.starmap([(how, how)]).apply_async(**options)
    carried.worker()
    letters = {letter.task_id: letter for letter in carried.letters(4, bound=120)}
    found = {how: (letters[result.id].reason.value, letters[result.id].task) for how, result in sent.items()}
    assert found == {
        "hang": ("time_limit", "shop.end"),
        "kill": ("worker_lost", "shop.end"),
        "reject": ("rejected", "shop.end"),
        "late": ("expired", "shop.end"),
    }
    assert carried.runs("late") == []


def test_an_items_own_retry_is_the_messages(carried: Guarded) -> None:
    result = carried.tasks.again.map(["k"]).apply_async()
    carried.worker()
    assert result.get(timeout=60) == [3]
    carried.no_letters()


def test_adopted_plain_and_unknown_inner_tasks(carried: Guarded) -> None:
    carried.tasks.fail.map(["adopted"]).apply_async()
    plain = carried.tasks.plain.map(["plain"]).apply_async()
    carried.app.send_task("celery.map", kwargs={"task": {"task": "shop.gone", "args": [], "kwargs": {}}, "it": [1]})
    carried.worker()
    letters = {letter.task: letter.reason.value for letter in carried.letters(2)}
    assert letters == {"adopted.fail": "attempts_exhausted", "shop.gone": "unknown_task"}
    with pytest.raises(ConnectionError):
        plain.get(timeout=60)
    carried.finish()
    assert len(carried.runs("adopted")) == 2
    assert len(carried.runs("plain")) == 1
    assert len(carried.letters(0)) == 2


def test_a_countdown_waits_outside_the_workers(carried: Guarded) -> None:
    carried.worker()
    sent_at = time.time()
    result = carried.tasks.charge.map([]).apply_async(countdown=10)
    carried.finish()  # what was published before it and does not wait elsewhere is with the worker by now
    scheduled = carried.app.control.inspect(timeout=5).scheduled()
    assert list(scheduled.values()) == [[]]
    assert result.get(timeout=60) == []
    assert time.time() - sent_at >= 10


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_in_pools_that_run_in_the_workers_own_process(
    harness: Harness, redis_broker: Broker, result_backend: str, pool: str
) -> None:
    carried = Guarded(harness, redis_broker.url, result_backend, {}, module="carried")
    carried.app.finalize()
    carried.break_("k")
    carried.tasks.charge.starmap([("k", 1), ("k", 2)]).apply_async()
    carried.worker(pool=pool)
    assert carried.letter().task == "shop.charge"
    assert customers(carried, "k") == [1, 2] * 3


def test_put_back_it_runs_all_items_and_is_confirmed(carried: Guarded) -> None:
    carried.break_("k")
    carried.tasks.charge.starmap([("k", 1), ("k", 2)]).apply_async()
    carried.worker()
    carried.wait_for_runs("k", 6)
    carried.rest()
    run = carried.harness.run
    run("tests.apps.carried", "guardian", "--once")
    carried.repair("k")
    query = ("requeue", "task:shop.charge", "--reason", "it is back", "--yes")
    done = run("tests.apps.carried", "guardrails", "dlq", *query)
    assert done.returncode == 0, done
    carried.wait_for_runs("k", 8)
    carried.rest()
    run("tests.apps.carried", "guardian", "--once")
    listed = run("tests.apps.carried", "guardrails", "dlq", "list", "--json")
    assert '"recovered"' in listed.stdout
