"""What `celery report` and `celery inspect conf` show of the settings: all but the secrets."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Broker
from tests.harness import Harness

APP = "tests.apps.secretive"
WAYS = ["dict", "late", "object", "CELERY_GUARDRAILS", "celery_guardrails"]


@pytest.mark.parametrize("way", WAYS)
def test_no_output_of_celery_shows_a_secret(harness: Harness, redis_broker: Broker, way: str) -> None:
    store = f"sqlite:///{harness.folder / 'archive.db'}"
    harness.environment.update(BROKER_URL=redis_broker.url, SECRETIVE=way, SECRETIVE_STORE=store)
    outputs = {"report": harness.run(APP, "report").stdout}
    if way in ("dict", "CELERY_GUARDRAILS"):
        harness.worker(APP, pool="solo", concurrency=1)
        outputs["conf"] = harness.run(APP, "inspect", "conf", "--json").stdout
        outputs["remote report"] = harness.run(APP, "inspect", "report").stdout
        (answer,) = json.loads(outputs["conf"]).values()
        (shown,) = [value for key, value in answer.items() if key.lower().endswith("guardrails")]
        assert shown["slack"]["channel"] == "#alerts"
        assert shown["slack"]["webhook_url"] == shown["store"]["url"] == "[redacted]"
    for name, output in outputs.items():
        assert "secretive.dead" in output, name
        assert "#alerts" in output, name
        assert "staging" in output, name
        assert "seekrit" not in output, name
    read = harness.run_python("-c", f"from {APP} import app, SETTINGS; assert app.conf.guardrails == SETTINGS")
    assert read.returncode == 0, read.stderr
