"""The scripts on a Redis in cluster mode, which refuses keys of different slots, and one whose memory is full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from celery_guardrails.transport.redis import script
from celery_guardrails.transport.waiting import redis_script as waiting_script
from tests.conftest import Broker, run_server
from tests.servers import RedisCluster
from tests.waiting import wait_until

PREFIX = "{shop}."


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    for server in run_server(RedisCluster):
        with redis.Redis(port=server.port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO", NEVER_DECODE=True), 30)
            yield client


def message(number: int) -> str:
    return json.dumps({"body": "x", "properties": {"delivery_tag": f"d{number}", "delivery_info": {}}})


UNACKED, INDEX, KEPT = (PREFIX + name for name in ("unacked", "unacked_index", "guardrails.quarantine"))


def test_every_script_keeps_to_one_slot(cluster: Any) -> None:
    lists = [PREFIX + name for name in ("celery", "second", "celery\x06\x163", "second\x06\x163")]
    cluster.lpush(lists[0], message(1), "garbage")
    cluster.lpush(lists[3], message(2))
    taken = script.TAKE.run(cluster, [UNACKED, INDEX, KEPT, *lists], [10, 1, "t-", 5, "celery", "second"])
    assert [taken[0:2], taken[3:6], taken[6:8]] == [[0, b"t-5"], [0, b"", b"t-6"], [3, b"t-7"]]
    assert cluster.hget(KEPT, "t-6") == b"6:celerygarbage"
    assert json.loads(cluster.hget(UNACKED, "t-7"))[1:] == ["", "second"]
    assert script.LEASE.run(cluster, [INDEX], ["t-5", "t-7", "gone"]) == 2
    bound, *due = script.DUE.run(cluster, [UNACKED, INDEX], [-1, 10])
    assert sorted(due[::2]) == [b"t-5", b"t-7"]
    assert script.MOVE.run(cluster, [UNACKED, INDEX, lists[0]], ["t-5", bound, "RPUSH", message(1)]) == 1
    assert script.MOVE.run(cluster, [UNACKED, INDEX, lists[0]], ["t-5", bound, "RPUSH", message(1)]) == 0
    assert script.QUARANTINE.run(cluster, [UNACKED, INDEX, KEPT], ["t-7", "6:secondx"]) == 1
    assert script.QUARANTINE.run(cluster, [UNACKED, INDEX, KEPT], ["t-7", "6:secondx"]) == 0
    assert script.ACK.run(cluster, [UNACKED, INDEX], ["t-5"]) == 0
    script.TAKE.run(cluster, [UNACKED, INDEX, KEPT, *lists], [1, 1, "t-", 8, "celery", "second"])
    assert script.PUT_OFF.run(cluster, [INDEX], ["t-8", 5, 60]) == 1
    assert script.ACK.run(cluster, [UNACKED, INDEX], ["t-8"]) == 1
    waiting = [PREFIX + "guardrails.waiting", PREFIX + "guardrails.waiting.messages"]
    waiting_script.PUT.run(cluster, waiting, [0, "a", '["x"]\ntext', "b", '["x"]\nother'])
    assert waiting_script.FALLEN_DUE.run(cluster, waiting, [10]) == [b"a", b'["x"]', b"b", b'["x"]']
    assert waiting_script.RELEASE.run(cluster, [*waiting, lists[1]], ["1", "a", 1, ""]) == 1
    assert cluster.lrange(lists[1], 0, -1) == [b"text"]
    assert waiting_script.DROP.run(cluster, waiting, ["b"]) == 1


def test_keys_of_other_slots_would_be_refused(cluster: Any) -> None:
    with pytest.raises(redis.exceptions.ResponseError, match="same slot"):
        script.ACK.run(cluster, ["unacked", "unacked_index"], ["t"])


@pytest.fixture
def client(redis_broker: Broker) -> Iterator[Any]:
    with redis.Redis.from_url(redis_broker.url) as client:
        yield client


KEYS = ["unacked", "unacked_index", "guardrails.quarantine", "celery"]


def test_a_take_from_keys_of_other_types_takes_nothing(client: Any) -> None:
    client.lpush("celery", message(1))
    for key in KEYS[:3]:
        client.set(key, "a text")
        with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
            script.TAKE.run(client, KEYS, [10, 1, "t-", 1, "celery"])
        client.delete(key)
    assert client.llen("celery") == 1


@pytest.mark.own_servers
def test_a_full_redis_is_still_consumed_and_nothing_is_gone(client: Any) -> None:
    for number in range(50):
        client.lpush("celery", message(number))
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    try:
        taken = script.TAKE.run(client, KEYS, [10, 1, "t-", 1, "celery"])
        assert len(taken) == 30
        assert (client.llen("celery"), client.hlen("unacked"), client.zcard("unacked_index")) == (40, 10, 10)
        assert script.MOVE.run(client, ["unacked", "unacked_index", "celery"], ["t-1", "", "RPUSH", message(0)]) == 1
        assert (client.llen("celery"), client.hlen("unacked")) == (41, 9)
        with pytest.raises(redis.exceptions.ResponseError, match="maxmemory"):
            waiting_script.PUT.run(client, ["waiting", "messages"], [1, "a", "text"])
        assert not client.exists("waiting", "messages")
    finally:
        client.config_set("maxmemory", 0)


def test_a_move_whose_list_is_none_leaves_the_message(client: Any) -> None:
    client.lpush("celery", message(1))
    script.TAKE.run(client, KEYS, [10, 1, "t-", 1, "celery"])
    client.set("odd", "a text")
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        script.MOVE.run(client, ["unacked", "unacked_index", "odd"], ["t-1", "", "RPUSH", message(1)])
    assert (client.hlen("unacked"), client.zcard("unacked_index")) == (1, 1)


def test_a_queue_order_that_is_fixed_empties_one_list_after_the_other(client: Any) -> None:
    for number in range(4):
        client.lpush("a", message(number))
        client.lpush("b", message(number))
    keys = [*KEYS[:3], "a", "b"]
    assert script.TAKE.run(client, keys, [6, 0, "t-", 1, "a", "b"])[::3] == [0, 0, 0, 0, 1, 1]
    for key in ("a", "b"):
        client.delete(key)
        client.lpush(key, *[message(number) for number in range(4)])
    assert script.TAKE.run(client, keys, [6, 1, "u-", 1, "a", "b"])[::3] == [0, 1, 0, 1, 0, 1]
