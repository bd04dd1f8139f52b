"""Tasks that run at most once, and wait in the worker for a child: a lost connection or a shutdown loses none."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import pytest
import redis

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Process
from tests.rabbitmq import RabbitMQServer
from tests.waiting import wait_until

pytestmark = pytest.mark.own_servers

LOST = "Connection to broker lost"


def cut(broker: Broker, worker: Process) -> None:
    """Cut the worker's connections to its broker, and wait until it has new ones."""
    before, connected = worker.log().count(LOST), worker.log().count("Connected to")
    if isinstance(broker.server, RabbitMQServer):
        broker.server.close_all_connections()
    else:
        with redis.Redis.from_url(broker.url) as client:
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)
    wait_until(lambda: worker.log().count(LOST) > before, 30, "the worker to see that its connection is lost")
    wait_until(lambda: worker.log().count("Connected to") > connected, 30, "the worker to be connected again")


def received(losing: Guarded, worker: Process, *keys: str) -> None:
    """Send early tasks one after the other, each when the worker has taken the one before."""
    for key in keys:
        task = losing.tasks.until_go.delay(key)
        worker.wait_for_log(f"[{task.id}] received")


def go(losing: Guarded, keys: Sequence[str], letters: int = 0) -> None:
    """Let them all run, and see that each did exactly once, and that so many are dead."""
    (losing.runs_folder / "go").touch()
    for key in keys:
        losing.wait_for_runs(key, 1)
    losing.finish()
    assert {key: len(losing.runs(key)) for key in keys} == dict.fromkeys(keys, 1)
    losing.no_more_letters(letters)


def with_a_queue(losing: Guarded, broker: Broker) -> Process:
    """A worker whose only child is busy, and which hands its pool more work: Celery forgets at a cut who is busy."""
    worker = losing.worker("-c", "1")
    received(losing, worker, "held")
    losing.wait_for_runs("held", 1)
    cut(broker, worker)
    received(losing, worker, "first", "second")
    return worker


def test_what_waits_for_a_busy_child_outlives_a_lost_connection(losing, broker):
    worker = with_a_queue(losing, broker)
    cut(broker, worker)
    received(losing, worker, "third")
    cut(broker, worker)
    go(losing, ("held", "first", "second", "third"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_waits_for_a_busy_child_outlives_the_worker(losing, broker, number):
    worker = with_a_queue(losing, broker)
    worker.signal(number)
    if number is signal.SIGTERM:
        worker.wait_for_log("Warm shutdown")
        (losing.runs_folder / "go").touch()
    worker.wait(30)
    losing.worker("-c", "1")
    if number is signal.SIGKILL:
        assert losing.letter().reason.value == "worker_lost"  # what ran
    go(losing, ("held", "first", "second"), letters=int(number is signal.SIGKILL))


@pytest.mark.parametrize("lost", [True, False])
def test_what_a_child_has_not_begun_runs_once_if_the_child_dies(losing, broker, lost):
    worker = losing.worker("-c", "1")
    losing.finish()
    losing.tasks.heard.apply_async(kwargs={"key": "child"})
    child = int(losing.wait_for_runs("child", 1)[0]["pid"])
    os.kill(child, signal.SIGSTOP)
    # the second is taken in a later turn of the worker's loop: the first is in the child's pipe by then
    received(losing, worker, "piped", "behind")
    if lost:
        cut(broker, worker)
    os.kill(child, signal.SIGKILL)
    go(losing, ("piped", "behind"))


def test_what_kills_its_child_after_a_cut_is_dead_lettered(losing, broker):
    worker = losing.worker("-c", "1")
    losing.finish()
    losing.tasks.heard.apply_async(kwargs={"key": "child"})
    child = int(losing.wait_for_runs("child", 1)[0]["pid"])
    os.kill(child, signal.SIGSTOP)
    killer = losing.tasks.early.delay("killer", "kill_child")
    worker.wait_for_log(f"[{killer.id}] received")
    received(losing, worker, "behind")
    cut(broker, worker)
    # what comes back by Redis may come in another order, and the one behind must not keep the only child then
    (losing.runs_folder / "go").touch()
    os.kill(child, signal.SIGCONT)
    letter = losing.letter()
    assert (letter.task_id, letter.reason.value) == (killer.id, "worker_lost")
    assert len(losing.runs("killer")) == 1
    losing.wait_for_runs("behind", 1)


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_what_waits_in_another_pool_outlives_a_cut_and_a_warm_shutdown(losing, broker, pool):
    worker = losing.worker("-c", "1", pool=pool)
    received(losing, worker, "held")
    losing.wait_for_runs("held", 1)
    if pool == "threads":
        received(losing, worker, "first", "second")
        cut(broker, worker)
        received(losing, worker, "third")
    else:  # a pool that is full takes no more messages
        for key in ("first", "second", "third"):
            losing.tasks.until_go.delay(key)
    worker.signal(signal.SIGTERM)
    worker.wait_for_log("Warm shutdown")
    time.sleep(4)  # it turns to its pool within 2 s, and tells nobody; earlier, the test would only be easier
    (losing.runs_folder / "go").touch()
    worker.wait(30)
    losing.worker("-c", "1", pool=pool)
    go(losing, ("held", "first", "second", "third"))
