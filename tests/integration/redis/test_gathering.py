"""Acknowledgements that are gathered in a turn of the event loop: each gets to Redis, or is still owed and held."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from celery_guardrails.transport.acknowledge import acknowledge
from celery_guardrails.transport.redis.gathering import Gathering
from tests.conftest import Broker
from tests.harness import ROOT, Process
from tests.integration.redis.holder import Holder, demote, send
from tests.waiting import wait_until

pytestmark = pytest.mark.own_servers

ERRORS = (redis.exceptions.ConnectionError,)


class Gatherer(Holder):
    """A holder whose event loop is the test: it says when a turn ends."""

    def __init__(self, url: str, messages: int) -> None:
        super().__init__(url)
        self.gathering = Gathering(self.custody)
        self.custody.gather = self.gathering.add
        self.gathering.open()
        send(url, messages)
        self.take(messages)

    def ack(self, *places: int) -> list[str]:
        """Acknowledge as Celery does; gives the tags."""
        acked = [self.messages[place] for place in places]
        for message in acked:
            message.ack_log_error(logging.getLogger(__name__), ERRORS)
        return [message.delivery_tag for message in acked]

    def owes(self) -> set[str]:
        return set(self.custody.owed()[0])

    def turn_until_paid(self) -> None:
        def is_paid() -> bool:
            self.gathering.turn()
            return not self.owes()

        wait_until(is_paid, 20, "Redis has answered")


@pytest.fixture
def client(redis_broker: Broker) -> Iterator[Any]:
    with redis.Redis.from_url(redis_broker.url) as client:
        yield client


@pytest.fixture
def gather(redis_broker: Broker) -> Iterator[Callable[[int], Gatherer]]:
    made: list[Gatherer] = []

    def make(messages: int) -> Gatherer:
        made.append(Gatherer(redis_broker.url, messages))
        return made[-1]

    yield make
    for holder in made:
        holder.gathering.close()
        holder.connection.release()


def test_a_turn_is_one_call_and_makes_room_at_once(client: Any, gather: Any) -> None:
    holder = gather(5)
    client.config_resetstat()
    tags = holder.ack(0, 1, 2, 3)
    assert all(message.acknowledged for message in holder.messages[:4])
    assert holder.channel.qos.can_consume_max_estimate() == 99
    assert client.hlen("unacked") == 5
    assert set(holder.custody.held()) == {message.delivery_tag for message in holder.messages}  # its lease goes on
    holder.turn_until_paid()
    assert client.hkeys("unacked") == [holder.messages[4].delivery_tag.encode()]
    assert client.zrange("unacked_index", 0, -1) == client.hkeys("unacked")
    assert set(holder.custody.held()).isdisjoint(tags)
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 1


def test_a_server_that_does_not_know_the_script_is_given_it(client: Any, gather: Any) -> None:
    holder = gather(2)
    for place in range(2):
        client.script_flush()
        holder.ack(place)
        holder.turn_until_paid()
    assert client.hlen("unacked") == 0


def test_what_has_to_be_known_goes_by_itself(client: Any, gather: Any) -> None:
    holder = gather(3)
    early, back, stolen = holder.messages
    assert acknowledge(early, lambda: None)
    back.reject_log_error(logging.getLogger(__name__), ERRORS, requeue=True)
    assert client.hkeys("unacked") == [stolen.delivery_tag.encode()]
    assert client.llen("q") == 1
    client.delete("unacked")
    assert not acknowledge(stolen, lambda: None)
    assert holder.owes() == set()


def test_a_paused_redis_is_not_waited_for(redis_broker: Broker, client: Any, gather: Any) -> None:
    holder = gather(3)
    holder.ack(0)
    holder.turn_until_paid()
    redis_broker.server.pause()
    try:
        for place in (1, 2):
            holder.ack(place)
            holder.gathering.turn()  # in vain it would wait until it gives up, and leave it to the keeper
            holder.gathering.turn()
    finally:
        redis_broker.server.resume()
    assert len(holder.owes()) == 2
    holder.turn_until_paid()
    assert client.hlen("unacked") == 0


@pytest.mark.parametrize("sent", [False, True])
def test_a_connection_that_is_lost_is_replaced(client: Any, gather: Any, sent: bool) -> None:
    holder = gather(3)
    holder.ack(0)
    holder.turn_until_paid()
    if sent:
        holder.ack(1)
        holder.gathering.turn()
    client.client_kill_filter(_type="normal", skipme=True)
    holder.ack(2)
    holder.turn_until_paid()
    assert client.hlen("unacked") == (0 if sent else 1)


def test_a_redis_that_is_away_is_told_later(redis_broker: Broker, client: Any, gather: Any) -> None:
    holder = gather(4)
    holder.ack(0)
    holder.turn_until_paid()
    redis_broker.server.stop()
    tags = set(holder.ack(1))
    holder.gathering.turn()
    holder.gathering.turn()
    tags |= set(holder.ack(2))
    holder.gathering.turn()
    assert holder.owes() == tags
    assert set(holder.custody.held()) == {*tags, holder.messages[3].delivery_tag}
    redis_broker.server.start()
    holder.gathering.turn()  # what failed is the keeper's
    assert client.hlen("unacked") == 3
    holder.pay(client)
    assert client.hkeys("unacked") == [holder.messages[3].delivery_tag.encode()]
    assert holder.owes() == set()


def test_a_redis_that_refuses_is_told_later(client: Any, gather: Any, caplog: pytest.LogCaptureFixture) -> None:
    def is_refused() -> bool:
        holder.gathering.turn()
        return "Redis refuses for now" in caplog.text

    holder = gather(1)
    demote(client)
    try:
        tags = set(holder.ack(0))
        wait_until(is_refused, 20, "it is refused")
        assert holder.owes() == tags
    finally:
        client.replicaof("NO", "ONE")
    holder.gathering.turn()
    assert client.hlen("unacked") == 1
    holder.pay(client)
    assert client.hlen("unacked") == 0


def test_the_end_of_the_loop_sends_the_rest_and_waits_for_it(client: Any, gather: Any) -> None:
    holder = gather(3)
    holder.ack(0, 1)
    client.script_flush()
    holder.gathering.close()
    assert holder.owes() == set()
    assert client.hlen("unacked") == 1
    holder.ack(2)  # from now on each goes by itself
    assert client.hlen("unacked") == 0
    assert holder.owes() == set()


def test_a_channel_that_closes_gives_back_only_what_is_not_acknowledged(client: Any, gather: Any) -> None:
    holder = gather(3)
    holder.ack(0)
    holder.channel.close()
    assert client.llen("q") == 2
    holder.turn_until_paid()
    assert client.hlen("unacked") == 0


HOOK = """
import os, signal
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.worker import state
from celery_guardrails.transport.redis.gathering import Gathering

add, turn, gathered, done = Gathering.add, Gathering.turn, [], []

def counting(self, channel, tag):
    gathered.append(tag)
    return add(self, channel, tag)

def interrupted(self):
    if len(gathered) < {after} or done:
        return turn(self)
    done.append(True)
    {act}

Gathering.add, Gathering.turn = counting, interrupted
"""
"""What a worker does at the end of the turn in which it has gathered so many acknowledgements."""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
WARM = "state.should_stop = 0; raise WorkerShutdown(0)"
COLD = "state.should_terminate = 1; raise WorkerTerminate(1)"
LOSE = """
    import redis
    redis.Redis.from_url(os.environ["BROKER_URL"]).client_kill_filter(_type="normal", skipme=True)
    raise redis.exceptions.ConnectionError("lost")
"""


def hooked(on_redis: Any, act: str, after: int = 1) -> Process:
    """A worker that does this instead of ending that turn."""
    (on_redis.harness.folder / "sitecustomize.py").write_text(HOOK.format(act=act.strip(), after=after))
    path = f"{on_redis.harness.folder}:{ROOT}"
    worker: Process = on_redis.harness.worker("tests.apps.onredis", env={"PYTHONPATH": path})
    return worker


@pytest.mark.parametrize(("act", "runs"), [(KILL, 2), (f"turn(self); {KILL}", 1)])
def test_a_kill_between_the_end_and_the_acknowledgement(on_redis: Callable[..., Any], act: str, runs: int) -> None:
    """Before it is sent, as with a worker that sends each by itself, the work is redelivered; once it is sent, not."""
    app = on_redis(visibility_timeout=2)
    killed = hooked(app, act)
    app.tasks.work.delay("work")
    assert killed.wait() == -signal.SIGKILL
    app.worker()
    app.tasks.work.delay("after")
    app.wait_until_idle()
    assert len(app.lines("work", "end")) == runs
    assert len(app.lines("after", "end")) == 1


@pytest.mark.parametrize("after", [1, 2])
def test_a_connection_lost_in_that_instant_runs_nothing_twice(on_redis: Callable[..., Any], after: int) -> None:
    app = on_redis(visibility_timeout=3)
    worker = hooked(app, LOSE, after)
    for number in range(after):
        app.tasks.work.delay(f"work{number}")
        wait_until(lambda: app.lines(f"work{number}", "end"), 30, "it has run")  # noqa: B023
    worker.wait_for_log("Connection to broker lost")
    app.tasks.work.delay("after")
    app.wait_until_idle()
    assert [len(app.lines(f"work{number}")) for number in range(after)] == [1] * after
    assert len(app.lines("after")) == 1
    assert worker.is_running


@pytest.mark.parametrize("act", [WARM, COLD])
def test_a_shutdown_in_that_instant_leaves_nothing(on_redis: Callable[..., Any], act: str) -> None:
    app = on_redis(visibility_timeout=60)
    worker = hooked(app, act)
    app.tasks.work.delay("work")
    worker.wait()
    assert app.redis.hlen("unacked") == app.redis.llen("celery") == 0
    assert len(app.lines("work")) == 1


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_other_pools_acknowledge_as_well(on_redis: Callable[..., Any], pool: str) -> None:
    app = on_redis()
    worker = app.worker("-c", "4", pool=pool)
    for number in range(50):
        app.tasks.count.delay(number)
    app.tasks.failing.delay("key")
    app.wait_until_idle()
    assert sorted(app.counted()) == list(range(50))
    assert worker.stop() == 0
    assert app.redis.hlen("unacked") == app.redis.zcard("unacked_index") == 0
