"""What one process holds of Redis, step by step: a server that refuses or hangs leaves nothing held for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from celery_guardrails.errors import PublishError
from celery_guardrails.transport.acknowledge import acknowledge
from celery_guardrails.transport.redis.connection import Line
from celery_guardrails.transport.redis.keeper import Keeper
from celery_guardrails.transport.redis.restore import restore_expired
from celery_guardrails.transport.redis.script import ACK
from tests.conftest import Broker
from tests.integration.redis.holder import Holder, demote, send
from tests.waiting import wait_until

pytestmark = pytest.mark.own_servers


@pytest.fixture
def client(redis_broker: Broker) -> Iterator[Any]:
    with redis.Redis.from_url(redis_broker.url) as client:
        yield client
        client.replicaof("NO", "ONE")


@pytest.fixture
def hold(redis_broker: Broker) -> Iterator[Callable[..., Holder]]:
    made: list[Holder] = []

    def make(*args: Any) -> Holder:
        made.append(Holder(redis_broker.url, *args))
        return made[-1]

    yield make
    for holder in made:
        holder.connection.release()


def test_what_redis_did_not_hear_of_is_told_later(redis_broker: Broker, client: Any, hold: Any) -> None:
    holder = hold()
    send(redis_broker.url, 3)
    holder.take(3)
    done, back, kept = holder.messages
    demote(client)
    for settle in (done.ack, lambda: back.reject(requeue=True)):
        with pytest.raises(redis.exceptions.ReadOnlyError):
            settle()
    # the ack is owed, so its message is kept from others; what goes back is not
    assert set(holder.custody.held()) == {done.delivery_tag, kept.delivery_tag}
    with pytest.raises(redis.exceptions.ReadOnlyError):
        holder.pay(client)
    client.replicaof("NO", "ONE")
    holder.pay(client)
    assert client.hkeys("unacked") == [kept.delivery_tag.encode()]
    assert client.llen("q") == 1
    assert holder.custody.owed() == ([], {})
    assert holder.channel.qos.can_consume_max_estimate() == 99


def test_an_ack_that_failed_is_taken_back_by_a_reject(redis_broker: Broker, client: Any, hold: Any) -> None:
    holder = hold()
    send(redis_broker.url, 1)
    holder.take(1)
    demote(client)
    with pytest.raises(redis.exceptions.ReadOnlyError):
        holder.messages[0].ack()
    with pytest.raises(redis.exceptions.ReadOnlyError):
        holder.messages[0].reject(requeue=True)
    client.replicaof("NO", "ONE")
    holder.pay(client)
    assert (client.hlen("unacked"), client.llen("q")) == (0, 1)


@pytest.mark.parametrize("heard", [True, False])
def test_work_whose_ack_failed_is_put_back_or_said_to_be_gone(
    redis_broker: Broker, client: Any, hold: Any, heard: bool
) -> None:
    """What runs at most once does not begin without an answer, and Redis may have heard of it nevertheless."""
    holder, gone = hold(), []
    send(redis_broker.url, 1)
    holder.take(1)
    (message,) = holder.messages
    if heard:
        assert ACK.run(client, ["unacked", "unacked_index"], [message.delivery_tag]) == 1
    demote(client)
    with pytest.raises(redis.exceptions.ReadOnlyError):
        acknowledge(message, lambda: gone.append(message.delivery_tag))
    if not heard:
        with pytest.raises(redis.exceptions.ReadOnlyError):
            holder.pay(client)
        assert gone == []
    client.replicaof("NO", "ONE")
    holder.pay(client)
    holder.pay(client)
    assert gone == ([message.delivery_tag] if heard else [])
    assert (client.hlen("unacked"), client.llen("q")) == (0, 0 if heard else 1)


def test_what_was_taken_with_garbage_is_not_stranded(redis_broker: Broker, client: Any, hold: Any) -> None:
    def quarantined(item: bytes, queue: str, tag: str) -> bool:
        demote(client)  # so that it cannot be removed from the quarantine
        return True

    holder = hold(quarantined)
    client.lpush("q", "garbage")
    send(redis_broker.url, 4)
    holder.take(4)
    assert len(holder.custody.held()) == 4
    assert client.hlen("guardrails.quarantine") == 1


def test_garbage_that_takes_its_time_keeps_no_message_from_being_kept(
    redis_broker: Broker, client: Any, hold: Any
) -> None:
    slow: list[str] = []

    def quarantined(item: bytes, queue: str, tag: str) -> bool:
        slow.append(tag)
        time.sleep(1.0)  # as a publish does whose broker does not answer
        return False

    holder = hold(quarantined)
    send(redis_broker.url, 1)
    holder.take(1)
    for number in range(20):
        client.hset("guardrails.quarantine", f"g{number}", b"1:qgarbage")
    app = Celery("keeping", broker=redis_broker.url, set_as_current=False)
    app.conf.broker_transport_options = {"visibility_timeout": 2}
    keeper = Keeper(app, holder.custody)
    keeper.start()
    other = hold()

    def nobody_else_gets_it() -> bool:
        assert restore_expired(other.channel, client) == 0
        return len(slow) >= 5

    wait_until(nobody_else_gets_it, 60, "five of them are handed on")
    keeper.end(5)
    app.close()


def test_a_line_leaves_a_server_that_has_become_a_replica(redis_broker: Broker, client: Any) -> None:
    app = Celery("line", broker=redis_broker.url, set_as_current=False)
    line = Line(app, 2.0)
    first = line.once(lambda _, client: client)
    demote(client)
    with pytest.raises(redis.exceptions.ReadOnlyError):
        line.once(lambda _, client: client.set("x", 1))
    client.replicaof("NO", "ONE")
    assert line.once(lambda _, client: client) is not first
    line.close()
    app.close()


def test_threads_do_not_wait_for_one_another_to_find_out_that_redis_hangs(redis_broker: Broker) -> None:
    app = Celery("line", broker=redis_broker.url, set_as_current=False)
    line = Line(app, 2.0)
    redis_broker.server.pause()
    try:
        told: list[str] = []

        def ask() -> None:
            with pytest.raises(PublishError) as lost:
                line.until(lambda _, client: client.ping(), 0.2, "q")
            told.append(str(lost.value))

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        redis_broker.server.resume()
    assert len(told) == 5
    assert sum("another thread" in text for text in told) == 4
    line.close()
    app.close()


def test_a_consumer_that_asks_for_each_message_gets_one(redis_broker: Broker, hold: Any) -> None:
    """As Celery's `worker_disable_prefetch` does, by its own `can_consume`."""
    holder = hold()
    send(redis_broker.url, 5)
    holder.channel.qos.can_consume = lambda: not holder.messages
    holder.take(1)
    assert len(holder.custody.held()) == 1
