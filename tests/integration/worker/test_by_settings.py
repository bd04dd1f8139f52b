"""An application whose code knows nothing of guardrails: the setting alone puts its tasks under guard."""

from __future__ import annotations

from tests.conftest import Broker
from tests.harness import Harness

PLAIN = """
import os
from celery import Celery
from celery_guardrails.policy import Constant

app = Celery("plain", broker=os.environ["BROKER_URL"])
app.conf.guardrails = {"guard": ["plain.*"], "policies": {"plain.*": {"max_attempts": 2, "backoff": Constant(0.1)}}}

@app.task(name="plain.failing")
def failing():
    raise ConnectionError("down")
"""


def test_the_setting_alone_is_enough(redis_broker: Broker, harness: Harness) -> None:
    (harness.folder / "plain_app.py").write_text(PLAIN)
    harness.environment["BROKER_URL"] = redis_broker.url
    worker = harness.worker("plain_app")
    sent = harness.run_python("-c", "import plain_app; plain_app.failing.delay()")
    assert sent.returncode == 0, sent.stderr
    worker.wait_for_log("is dead-lettered as attempts_exhausted: 2 of 2 attempts failed")
