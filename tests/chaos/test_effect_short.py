"""The short form of the proof that work takes effect once, on each broker; `effect.py` has the long form."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.brokers import BROKERS
from tests.chaos.effect import survive
from tests.rabbitmq import RabbitMQServer
from tests.servers import RedisServer
from tests.servers_postgres import PostgreSQLServer

ORDERS, FAULTS = 300, 12


def pay_once(name: str, server: RedisServer | RabbitMQServer, database: PostgreSQLServer, folder: Path) -> None:
    server.start()
    seed = random.SystemRandom().randrange(1_000_000)
    effect = survive(BROKERS[name][1](server), database, folder, orders=ORDERS, faults=FAULTS, seed=seed)
    assert (effect.missing, effect.twice, effect.dead) == ([], [], 0), f"seed {seed}, struck {effect.struck}"
    assert sum(effect.struck.values()) == FAULTS


@pytest.mark.timeout(900)
@pytest.mark.own_servers
def test_each_order_is_paid_once_on_redis(
    own_redis: RedisServer, own_postgresql: PostgreSQLServer, tmp_path: Path
) -> None:
    pay_once("redis", own_redis, own_postgresql, tmp_path)


@pytest.mark.timeout(900)
@pytest.mark.own_servers
def test_each_order_is_paid_once_on_rabbitmq(
    own_rabbitmq: RabbitMQServer, own_postgresql: PostgreSQLServer, tmp_path: Path
) -> None:
    pay_once("rabbitmq-quorum", own_rabbitmq, own_postgresql, tmp_path)
