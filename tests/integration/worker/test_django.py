"""Guarded tasks in a Django project can be sent when a transaction is committed, as Celery's own for Django can."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Broker
from tests.harness import Harness
from tests.waiting import wait_until


@pytest.mark.parametrize("for_all", [False, True])
def test_guarded_tasks_are_sent_on_commit(harness: Harness, redis_broker: Broker, for_all: bool) -> None:
    runs = harness.folder / "runs"
    runs.mkdir()
    harness.environment.update(
        BROKER_URL=redis_broker.url, GUARDED_RUNS=str(runs), DJANGO_SETTINGS_MODULE="tests.apps.django_settings"
    )
    if for_all:
        harness.environment["GUARDED_FOR_ALL"] = "1"
    harness.worker("tests.apps.django_shop")
    sent = harness.run_python("-m", "tests.apps.django_shop")
    assert sent.returncode == 0, sent.stderr
    wait_until((runs / "done").exists, 60, lambda: "the last task")
    wait_until(lambda: len(lines(runs / "committed")) == 6, 60, lambda: "six runs")
    assert Counter(lines(runs / "committed")) == {"based": 2, "mixed": 2, "adopted": 2}
    assert not (runs / "rolled-back").exists()


def lines(path: Path) -> list[str]:
    return [json.loads(line)["task"] for line in path.read_text().splitlines()] if path.exists() else []
