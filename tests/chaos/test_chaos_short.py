"""The short form of the chaos suite, on each broker: real processes, a few hundred tasks, faults that follow a seed.

`make chaos` runs the long form.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from tests.chaos.brokers import BROKERS
from tests.chaos.report import rendered
from tests.chaos.run import run
from tests.rabbitmq import RabbitMQServer
from tests.servers import RedisServer

TASKS, FAULTS, GAP = 200, 15, 1.0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def survive(name: str, server: RedisServer | RabbitMQServer, folder: Path) -> None:
    """Run on a broker; a failure shows the seed with which it comes again."""
    server.start()
    site = folder / "site"
    site.mkdir()
    seed = random.SystemRandom().randrange(1_000_000)
    say(f"chaos on {name}, seed {seed}")
    result = run(BROKERS[name][1](server), site, tasks=TASKS, faults=FAULTS, seed=seed, gap=GAP, say=say, workers=2)
    assert result.passed, rendered(result)
    assert len(result.struck) == FAULTS
    assert result.confirmed >= TASKS


@pytest.mark.timeout(600)
def test_nothing_is_lost_on_redis(own_redis: RedisServer, tmp_path: Path) -> None:
    survive("redis", own_redis, tmp_path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("queues", ["quorum", "classic"])
def test_nothing_is_lost_on_rabbitmq(queues: str, own_rabbitmq: RabbitMQServer, tmp_path: Path) -> None:
    survive(f"rabbitmq-{queues}", own_rabbitmq, tmp_path)
