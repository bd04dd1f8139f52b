"""A schedule of a real beat: what it has not sent, what no worker takes, and what runs again, as people see it."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.conftest import Broker
from tests.guarded import APP, Guarded
from tests.harness import Harness, Process
from tests.waiting import wait_until

SCHEDULE = {"tick": {"task": "guarded.add", "schedule": 2.0, "args": [1, 2]}}
SETTINGS = {"alerts": {"group_wait": "1s", "thresholds": {"overdue": {"grace": "3s", "ratio": 0.0}}}}


@pytest.fixture
def guarded(redis_broker: Broker, harness: Harness, result_backend: str) -> Guarded:
    harness.environment["BEAT_SCHEDULE"] = json.dumps(SCHEDULE)
    return Guarded(harness, redis_broker.url, result_backend, SETTINGS)


def asked(guarded: Guarded, *words: str) -> Any:
    done = guarded.harness.run(APP, "guardrails", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def overdue(guarded: Guarded) -> list[tuple[str, str, str]]:
    return [(each["entry"], each["task"], each["why"]) for each in asked(guarded, "status")["overdue"]]


def conditions(guarded: Guarded) -> list[tuple[str, str, dict[str, str]]]:
    found = asked(guarded, "alerts", "list")
    return [(each["task"], each["state"], each["conditions"]) for each in found]


def beat(guarded: Guarded) -> Process:
    return guarded.harness.start(APP, "beat", "-s", str(guarded.harness.folder / "beat"), "--max-interval", "1")


@pytest.mark.timeout(400)
def test_what_beat_does_not_send_and_what_no_worker_takes_are_told_apart(guarded: Guarded) -> None:
    guardian = guarded.harness.guardian(APP, ready="guardian started")
    wait_until(lambda: overdue(guarded) == [("tick", "guarded.add", "not_sent")], 60, "beat is not running")
    ticking = beat(guarded)
    wait_until(lambda: overdue(guarded) == [("tick", "guarded.add", "not_started")], 60, "no worker takes it")
    # one alert of it, which survives a guardian that is killed
    wait_until(lambda: bool(conditions(guarded)), 150, "the guardian looks each minute")
    guardian.signal(signal.SIGKILL)
    guardian.wait()
    guarded.harness.guardian(APP, ready="guardian started")
    (known,) = conditions(guarded)
    assert known[0] == "guarded.add"
    assert list(known[2]) == ["overdue/tick"]
    guarded.worker()
    wait_until(lambda: overdue(guarded) == [], 90, "it runs again")
    wait_until(lambda: conditions(guarded)[0][1:] == ("resolved", {}), 200, "the alert is over")
    assert len(conditions(guarded)) == 1
    ticking.stop()
