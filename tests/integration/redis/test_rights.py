"""A Redis user with the rights that plain Celery needs, and not all that guardrails needs: who says what to write."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from celery_guardrails.cli.doctor.checks.redis import rights
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Level
from celery_guardrails.cli.project import Project
from celery_guardrails.transport.redis.connection import Line
from celery_guardrails.transport.redis.rights import COMMANDS, missing, needs
from tests.conftest import Broker
from tests.waiting import wait_until

pytestmark = pytest.mark.own_servers

KEYS = "~{0}celery* ~{0}second* ~{0}topical* ~{0}_kombu.* ~{0}unacked* ~{0}*.pidbox* &* +@all"
"""What is enough for plain Celery."""


@pytest.fixture
def limit(redis_broker: Broker) -> Iterator[Callable[[str], str]]:
    """Makes the user `ada` with these rights, and gives the URL with it."""
    with redis.Redis.from_url(redis_broker.url) as admin:

        def make(rules: str) -> str:
            admin.execute_command(f"ACL SETUSER ada reset on >pw {rules}")
            return redis_broker.url.replace("redis://", "redis://ada:pw@")

        yield make
        admin.execute_command("ACL DELUSER ada")


@pytest.mark.parametrize(
    ("prefix", "rules", "line"),
    [
        ("", KEYS, "ACL SETUSER ada ~dead* ~guardrails.*"),
        ("shop:", KEYS, "ACL SETUSER ada ~shop:dead* ~shop:guardrails.*"),
        ("", "~* &* +@all -blmove -evalsha -eval", "ACL SETUSER ada +blmove +eval +evalsha"),
        ("", "~* &* +@all -time", "ACL SETUSER ada +time"),
    ],
)
def test_a_worker_without_the_right_says_what_to_write_and_starts_with_it(
    on_redis: Callable[..., Any], redis_broker: Broker, limit: Callable[[str], str], prefix: str, rules: str, line: str
) -> None:
    app = on_redis(limit(rules.format(prefix)), **({"global_keyprefix": prefix} if prefix else {}))
    app.tasks.work.delay("one")
    with redis.Redis.from_url(redis_broker.url) as admin:
        before = admin.keys("*")
        worker = app.worker(wait=False)
        assert worker.wait(60) != 0
        log = worker.log()
        assert line in log
        assert "this worker does not start" in log
        assert "Traceback" not in log
        assert set(admin.keys("*")) - set(before) == set()  # it was tried without doing anything
        assert admin.llen(f"{prefix}celery") == 1
        found = list(rights(Context(Project(app.tasks.app))))
        assert [(each.level, line in each.fix) for each in found] == [(Level.FAULT, True)]

        admin.execute_command(line)
        assert [each.level for each in rights(Context(Project(app.tasks.app)))] == [Level.OK]
        app.worker()
        wait_until(lambda: app.lines("one", "end"), 60, "it runs")
        app.tasks.failing.delay("two")  # waits for its retry, and dies
        wait_until(lambda: admin.llen(f"{prefix}dead") == 1, 60, "its dead letter")


def test_a_right_that_is_taken_away_and_given_back(
    on_redis: Callable[..., Any], redis_broker: Broker, limit: Callable[[str], str]
) -> None:
    app = on_redis(limit("~* &* +@all"))
    worker = app.worker()
    with redis.Redis.from_url(redis_broker.url) as admin:
        admin.execute_command("ACL SETUSER ada -evalsha -blmove")
        worker.wait_for_log("Redis refuses for now (NOPERM")
        admin.execute_command("ACL SETUSER ada +@all")
        app.tasks.work.delay("after")
        wait_until(lambda: app.lines("after", "end") or not worker.is_running, 60, "it goes on by itself")
    assert worker.is_running


def test_all_that_is_needed_is_enough(redis_broker: Broker, limit: Callable[[str], str]) -> None:
    needed = needs("", ["dead"])
    keys, commands = " ".join(f"~{key}" for key in needed.keys), " ".join(f"+{name}" for name in needed.commands)
    url = limit(f"~unacked* ~celery* &* +multi +select +hello +info {keys} {commands}")
    with Celery("ours", broker=url, set_as_current=False) as app:
        line = Line(app, 4.0)
        assert line.once(lambda channel, client: missing(channel, client, ["dead"], ["celery"])) is None
        line.close()


def test_the_scripts_use_no_other_commands() -> None:
    from celery_guardrails.transport.redis import script
    from celery_guardrails.transport.waiting import redis_script as waiting_script

    texts = [each.text for module in (script, waiting_script) for each in vars(module).values() if hasattr(each, "sha")]
    used = {name for text in texts for name in re.findall(r"redis\.p?call\('(\w+)'", text)}
    assert used <= {form[0] for form in COMMANDS}


def test_topology_prints_the_line_that_is_enough(
    on_redis: Callable[..., Any], redis_broker: Broker, limit: Callable[[str], str]
) -> None:
    app = on_redis(limit(KEYS.format("shop:")), global_keyprefix="shop:")
    told = app.harness.run("tests.apps.onredis", "guardrails", "topology", "--json")
    right = json.loads(told.stdout)["rights"]
    shown = app.harness.run("tests.apps.onredis", "guardrails", "topology")
    assert right["command"].startswith("ACL SETUSER ada ~shop:guardrails.* ~shop:dead* +evalsha")
    assert right["command"] in shown.stdout
    with redis.Redis.from_url(redis_broker.url) as admin:
        admin.execute_command(right["command"])
    assert [each.level for each in rights(Context(Project(app.tasks.app)))] == [Level.OK]
