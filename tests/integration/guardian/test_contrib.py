"""The dashboard and the rules in `contrib/` name metrics that a running guardian exports, and promtool takes them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.conftest import Broker, present
from tests.guarded import APP, Guarded
from tests.harness import ROOT, Harness
from tests.port import reserve_port
from tests.servers import find_program
from tests.waiting import wait_until

DASHBOARD = ROOT / "contrib" / "grafana" / "celery_guardrails.json"
RULES = ROOT / "contrib" / "prometheus" / "celery_guardrails.yml"
TESTS = RULES.with_name("celery_guardrails_test.yml")
METRIC = re.compile(r"\bguardrails_[a-z0-9_]+")
PARTS = ("_bucket", "_sum", "_count")


def expressions_of_rules() -> Iterator[str]:
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


def expressions_of_dashboard() -> Iterator[str]:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def named(expressions: Iterator[str]) -> set[str]:
    return {name for expression in expressions for name in METRIC.findall(expression)}


@pytest.fixture
def promtool() -> str:
    with present():
        return find_program("promtool", install="prometheus")


def exported(text: str) -> set[str]:
    """The names of the samples that an endpoint may have, by the type of each metric."""
    found: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            found |= {name + part for part in PARTS} if kind == "histogram" else {name}
    return found


def test_each_metric_that_is_named_is_exported_by_a_running_guardian(
    redis_broker: Broker, harness: Harness, result_backend: str
) -> None:
    port = reserve_port()
    guarded = Guarded(harness, redis_broker.url, result_backend, {"metrics": {"port": port}})
    guarded.break_("mail")
    harness.guardian(APP, ready=f"metrics: http://127.0.0.1:{port}/metrics")
    guarded.worker()
    guarded.tasks.mail.delay(1)

    def scraped() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            return str(answer.read().decode())

    text = wait_until(
        lambda: text if 'state="dead",task="guarded.mail"} 1.0' in (text := scraped()) else "", 60, "a letter"
    )
    names = named(expressions_of_rules()) | named(expressions_of_dashboard())
    assert len(names) > 15
    assert names - exported(text) == set()
    # and nothing is exported that neither shows: both are complete
    assert {name for name in exported(text) if not name.endswith((*PARTS, "_created"))} - names == set()


def test_a_name_that_nobody_exports_is_found() -> None:
    assert named(iter(['sum(rate(guardrails_gone_total{task="x"}[5m])) > guardrails:recorded'])) == {
        "guardrails_gone_total"
    }


@pytest.mark.parametrize(
    "words", [("check", "rules", str(RULES)), ("test", "rules", str(TESTS))], ids=["check", "test"]
)
def test_promtool_takes_the_rules(promtool: str, words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [promtool, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=RULES.parent,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_every_expression_of_the_dashboard(promtool: str, tmp_path: Any) -> None:
    values = {"$environment": ".*", "$task": ".*", "$__rate_interval": "5m"}
    rules = []
    for number, expression in enumerate(expressions_of_dashboard()):
        if expression.startswith("label_values("):
            continue
        for name, value in values.items():
            expression = expression.replace(name, value)
        rules.append({"record": f"panel:{number}", "expr": expression})
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), "utf-8")
    done = subprocess.run(
        [promtool, "check", "rules", str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_panel_stands_by_itself() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "two panels overlap"
    assert all(0 <= x < 24 for x, _ in cells)
    assert len({panel["id"] for panel in panels}) == len(panels)
