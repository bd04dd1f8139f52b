from __future__ import annotations

import importlib.util
import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import redis

from tests.conftest import Broker
from tests.harness import Harness, Process
from tests.waiting import wait_until

APP = "tests.apps.onredis"


class OnRedis:
    """The application of `tests/apps/onredis.py` on one Redis, its workers, and a look into the keys.

    Args:
        harness: starts the workers.
        url: the broker.
        options: kombu's transport options.
    """

    def __init__(self, harness: Harness, url: str, options: Mapping[str, Any]) -> None:
        self.harness, self.url = harness, url
        self.prefix = str(options.get("global_keyprefix", ""))
        self.runs = harness.folder / "runs"
        self.runs.mkdir(exist_ok=True)
        harness.environment.update(BROKER_URL=url, ONREDIS_OPTIONS=json.dumps(options), ONREDIS_RUNS=str(self.runs))
        self.tasks = self.load()
        self.redis = redis.Redis.from_url(url)

    def load(self, env: Mapping[str, str] | None = None) -> Any:
        """The application's module, loaded anew with this environment."""
        path = Path(__file__).parents[2] / "apps" / "onredis.py"
        spec = importlib.util.spec_from_file_location(f"onredis_{uuid.uuid4().hex}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with mock.patch.dict(os.environ, {**self.harness.environment, **(env or {})}):
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        return module

    def worker(
        self,
        *options: str,
        pool: str = "prefork",
        plain: bool = False,
        wait: bool = True,
        alone: bool = True,
        **conf: Any,
    ) -> Process:
        """Start a worker; `plain`: as Celery and kombu are; `conf`: settings of Celery's for it."""
        env = {"ONREDIS_CONF": json.dumps(conf), **({"ONREDIS_PLAIN": "1"} if plain else {})}
        return self.harness.worker(APP, *options, pool=pool, wait=wait, alone=alone, env=env)

    def lines(self, key: str, what: str = "start") -> list[str]:
        """The runs of `key`."""
        path = self.runs / key
        found = path.read_text().splitlines() if path.exists() else []
        return [line for line in found if line.startswith(what)]

    def counted(self) -> list[int]:
        """The numbers that `count` has seen."""
        path = self.runs / "counted"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def key(self, name: str) -> str:
        """A key as Redis has it."""
        return self.prefix + name

    def is_idle(self) -> bool:
        """Whether nothing is queued, unacknowledged or waiting."""
        lists = [self.key(name) for name in ("celery", "second", "topical", "celery\x06\x163", "celery\x06\x169")]
        return not (
            any(self.redis.llen(name) for name in lists)
            or self.redis.hlen(self.key("unacked"))
            or self.redis.zcard(self.key("guardrails.waiting"))
        )

    def wait_until_idle(self, bound: float = 60.0) -> None:
        """Wait until everything is done."""
        wait_until(self.is_idle, bound, "queues, unacknowledged and waiting messages are gone")

    def close(self) -> None:
        """Close the connections of this process."""
        self.redis.close()
        self.tasks.app.close()


@pytest.fixture
def on_redis(redis_broker: Broker, harness: Harness, request: pytest.FixtureRequest) -> Any:
    """Makes the application, with transport options of the test's choice."""
    made: list[OnRedis] = []

    def make(url: str | None = None, **options: Any) -> OnRedis:
        made.append(OnRedis(harness, url or redis_broker.url, options))
        return made[-1]

    yield make
    for each in made:
        each.close()


Make = Callable[..., OnRedis]
