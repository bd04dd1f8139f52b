"""The client of a Redis channel that publishes: one connection, whole keys, and errors that are not hidden."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kombu import Connection, Queue
from redis.credentials import UsernamePasswordCredentialProvider

from celery_guardrails.transport.redis.publish_client import PublishClient, keep_client
from tests.conftest import Broker

pytestmark = pytest.mark.own_servers


@pytest.fixture
def client(redis_broker: Broker) -> Iterator[Any]:
    with redis.Redis.from_url(redis_broker.url) as client:
        yield client


@pytest.mark.parametrize("prefix", ["", "shop:"])
def test_it_publishes_under_the_channels_prefix_and_keeps_its_connection(
    redis_broker: Broker, client: Any, prefix: str
) -> None:
    queue = Queue("q", routing_key="q")
    with Connection(redis_broker.url, transport_options={"global_keyprefix": prefix}) as connection:
        channel = connection.channel()
        keep_client(channel)
        producer = connection.Producer(channel)
        producer.publish({}, routing_key="q", declare=[queue])
        before = client.info("stats")["total_connections_received"]
        for priority in (0, 0, 9):
            producer.publish({}, routing_key="q", priority=priority)
        assert client.info("stats")["total_connections_received"] == before
        assert (client.llen(f"{prefix}q"), client.llen(f"{prefix}q\x06\x169")) == (3, 1)
        assert queue(channel).queue_declare().message_count == 4  # what is not publishing goes on as well


def test_a_lost_connection_and_a_refusal_are_errors(redis_broker: Broker, client: Any) -> None:
    with Connection(redis_broker.url) as connection:
        channel = connection.channel()
        keep_client(channel)
        producer = connection.Producer(channel)
        producer.publish({}, routing_key="q")
        client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(redis.exceptions.ConnectionError):
            producer.publish({}, routing_key="q")
        producer.publish({}, routing_key="q")
        assert client.llen("q") == 2
        client.set("text", "x")
        with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
            producer.publish({}, routing_key="text")


def test_where_connections_are_authenticated_anew_they_go_back_to_their_pool(redis_broker: Broker) -> None:
    with Connection(redis_broker.url) as connection:
        channel = connection.channel()
        channel.pool.connection_kwargs["credential_provider"] = UsernamePasswordCredentialProvider()
        keep_client(channel)
        with channel.conn_or_acquire() as kept:
            assert not isinstance(kept, PublishClient)
        with channel.conn_or_acquire() as again:
            assert again is kept
