"""The shop of `shop_app.py` in real processes: its worker, its guardian, its commands."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Broker
from tests.harness import Harness, Process
from tests.integration.cli.ward import Ward
from tests.waiting import wait_until

APP = "tests.integration.cli.shop_app"


class ShopProcesses:
    """Starts the shop's processes, which share a broker, an archive and a folder.

    Args:
        harness: starts the processes.
        broker_url: the broker; files in the harness's folder when it is not given.
    """

    def __init__(self, harness: Harness, broker_url: str = "filesystem://") -> None:
        self.harness = harness
        self.folder = harness.folder
        (self.folder / "broker").mkdir(exist_ok=True)
        harness.environment.update(
            SHOP_RUNS=str(self.folder), SHOP_BROKER=broker_url, SHOP_PREFIX=f"shop{uuid.uuid4().hex[:8]}", COLUMNS="100"
        )

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `celery -A shop WORDS` to its end."""
        return self.harness.run(APP, *words, env=env)

    def json(self, *words: str) -> Any:
        """What `celery -A shop guardrails WORDS --json` prints."""
        result = self.run("guardrails", *words, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def send(self, code: str) -> None:
        """Run a line of Python in which the shop's tasks are known."""
        result = self.harness.run_python("-c", f"from {APP} import import_, mail\n{code}")
        assert result.returncode == 0, result.stderr

    def worker(self, *options: str, pool: str = "prefork") -> Process:
        """Start a worker."""
        return self.harness.worker(APP, *options, pool=pool, concurrency=1)

    def guardian(self, *options: str) -> Process:
        """Start a guardian."""
        return self.harness.guardian(APP, *options, ready="guardian started")

    def repair(self) -> None:
        """Bring the mail provider back."""
        (self.folder / "repaired").touch()

    def states(self) -> dict[str, int]:
        """How many letters are in which state; empty while there is no archive."""
        result = self.run("guardrails", "dlq", "stats", "--json")
        return dict(json.loads(result.stdout)["by_state"]) if result.returncode == 0 else {}

    def wait_for_states(self, **expected: int) -> None:
        """Wait until the archive's letters are in these states."""
        wait_until(lambda: self.states() == expected, 60, lambda: f"{expected}, not {self.states()}", every=0.3)


@pytest.fixture
def make_shop(harness: Harness) -> Callable[..., ShopProcesses]:
    """Makes the shop on a broker; on one of files when none is given."""

    def make(broker: Broker | None = None) -> ShopProcesses:
        return ShopProcesses(harness, broker.url) if broker else ShopProcesses(harness)

    return make


@pytest.fixture
def shop(make_shop: Callable[..., ShopProcesses]) -> ShopProcesses:
    """The shop on a broker of files, which needs no server."""
    return make_shop()


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Callable[..., Ward]]:
    """Makes an application on a broker: `ward(url, slack={...}, conf={...})`."""
    made: list[Ward] = []

    def make(broker_url: str, conf: dict[str, Any] | None = None, **settings: Any) -> Ward:
        made.append(Ward(tmp_path, broker_url, settings, conf or {}))
        return made[-1]

    yield make
    for one in made:
        one.app.close()
