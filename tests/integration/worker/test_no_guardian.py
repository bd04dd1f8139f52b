"""A real worker without a guardian says so once, and once that it is over."""

from __future__ import annotations

import pytest

from tests.conftest import Broker
from tests.guarded import APP, Guarded
from tests.harness import Harness

WARNING = "no guardian has taken figures from"


@pytest.mark.timeout(300)
def test_a_worker_without_a_guardian_says_so_once(broker: Broker, harness: Harness, result_backend: str) -> None:
    guarded = Guarded(harness, broker.url, result_backend, {})
    worker = harness.worker("tests.apps.alone")
    worker.wait_for_log(WARNING, 90)
    guarded.tasks.add.delay(1, 2)
    guarded.finish()  # tasks run as ever
    guardian = harness.guardian(APP, ready="guardian started")
    worker.wait_for_log("a guardian takes figures from", 90)
    assert worker.log().count(WARNING) == 1
    assert f"{guarded.prefix}.dead.figures" in worker.log()
    assert worker.stop() == 0
    assert guardian.stop() == 0
