"""The product from end to end, as its users run it: worker, guardian, Slack, commands; on Redis and on RabbitMQ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from celery_guardrails.testing import Mode, SlackStandIn
from tests.conftest import Broker
from tests.guarded import APP, Guarded
from tests.harness import Harness
from tests.waiting import wait_until


@pytest.fixture
def slack() -> Iterator[SlackStandIn]:
    with SlackStandIn() as stand_in:
        yield stand_in


@pytest.fixture
def guarded(broker: Broker, harness: Harness, result_backend: str, slack: SlackStandIn) -> Guarded:
    harness.environment.update(GUARDRAILS_SLACK_TOKEN="xoxb-test", NO_PROXY="127.0.0.1")
    return Guarded(
        harness,
        broker.url,
        result_backend,
        {
            "slack": {"channel": "#alerts", "base_url": slack.base_url},
            "alerts": {"group_wait": 0.5, "edit_interval": 0.5},
        },
    )


def listed(guarded: Guarded, *arguments: str) -> list[dict[str, Any]]:
    done = guarded.harness.run(APP, "guardrails", "dlq", "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    letters: list[dict[str, Any]] = json.loads(done.stdout)
    return letters


def state_count(guarded: Guarded, state: str) -> int:
    return len(listed(guarded, "task:guarded.mail", "--state", state, "--limit", "100"))


def test_twelve_mails_fail_alert_once_and_are_put_back(guarded: Guarded, slack: SlackStandIn) -> None:
    guarded.break_("mail")
    guarded.worker()
    guardian = guarded.harness.guardian(APP, ready="archive:")
    for order in range(12):
        guarded.tasks.mail.delay(order, customer=f"c{order}", password="hunter2")
    guarded.tasks.bug.delay("bug")

    wait_until(lambda: state_count(guarded, "dead") == 12, 60, "12 dead letters")
    wait_until(lambda: len(slack.in_channel()) == 2, 30, "an alert for the mails and one for the bug")
    (alert,) = wait_until(
        lambda: [message for message in slack.in_channel() if "12 dead letters" in message.text], 30, "all twelve"
    )
    assert "hunter2" not in json.dumps(alert.blocks)
    assert "growth" in json.dumps(alert.blocks)

    mail = listed(guarded, "task:guarded.mail")[0]
    shown = guarded.harness.run(APP, "guardrails", "dlq", "show", mail["id"], "--json")
    letter = json.loads(shown.stdout)
    assert [attempt["number"] for attempt in letter["attempts"]] == [1, 2, 3]
    assert letter["error"]["type"] == "TimeoutError"
    assert "hunter2" not in shown.stdout

    guarded.repair("mail")
    done = guarded.harness.run(
        APP, "guardrails", "dlq", "requeue", "task:guarded.mail", "--reason", "smtp is back", "--by", "ada",
        "--wait", "60", "--yes", "--json", bound=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recovered"] == 12
    assert state_count(guarded, "recovered") == 12
    for order in range(12):
        assert len(guarded.runs(f"mail-{order}")) == 4  # three failures, one success

    again = guarded.harness.run(APP, "guardrails", "dlq", "requeue", mail["id"], "--reason", "twice")
    assert again.returncode == 1
    assert "recovered" in again.stderr
    assert len(slack.in_channel()) == 2
    assert guardian.stop() == 0


def test_work_that_dies_again_is_the_same_letter(guarded: Guarded) -> None:
    guarded.worker()
    guarded.harness.guardian(APP, ready="archive:")
    guarded.tasks.bug.delay("bug")
    (first,) = wait_until(lambda: listed(guarded, "task:guarded.bug"), 30, "the letter")
    done = guarded.harness.run(
        APP, "guardrails", "dlq", "requeue", first["id"], "--reason", "perhaps", "--wait", "60", "--json", bound=120
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["dead_again"] == 1
    (second,) = listed(guarded, "task:guarded.bug")
    assert (second["id"], second["state"], second["generation"]) == (first["id"], "dead", 1)
    shown = json.loads(guarded.harness.run(APP, "guardrails", "dlq", "show", first["id"], "--json").stdout)
    assert len(shown["attempts"]) == 2


def test_a_slack_that_is_down_loses_no_alert_and_disturbs_no_task(guarded: Guarded, slack: SlackStandIn) -> None:
    slack.mode = Mode.SERVER_ERROR
    guarded.worker()
    guarded.harness.guardian(APP, ready="archive:")
    guarded.tasks.bug.delay("bug")
    wait_until(lambda: "chat.postMessage" in slack.calls, 60, "an attempt to post")
    assert guarded.tasks.add.delay(1, 2).get(timeout=30) == 3
    slack.mode = Mode.OK
    wait_until(lambda: len(slack.in_channel()) == 1, 90, "the alert, once Slack is back")


def test_dead_letters_wait_for_a_guardian(guarded: Guarded, slack: SlackStandIn) -> None:
    guarded.worker()
    guarded.tasks.bug.delay("bug")
    guarded.finish()
    assert slack.in_channel() == []
    once = guarded.harness.run(APP, "guardian", "--once", "--json")
    assert once.returncode == 0, once.stderr
    assert json.loads(once.stdout)["archived"] == 1
    assert len(slack.in_channel()) == 1
    assert len(listed(guarded, "task:guarded.bug")) == 1


def test_an_archive_that_cannot_be_opened_leaves_letters_in_the_queue(guarded: Guarded) -> None:
    guarded.worker()
    guarded.tasks.bug.delay("bug")
    guarded.finish()
    nowhere = {"GUARDED_STORE": "sqlite:////nowhere/at/all.sqlite3"}
    failed = guarded.harness.run(APP, "guardian", "--once", env=nowhere)
    assert failed.returncode == 1
    assert "/nowhere/at/all.sqlite3" in failed.stderr.splitlines()[-1]
    assert "Traceback" not in failed.stderr
    assert guarded.harness.run(APP, "guardian", "--once").returncode == 0
    assert len(listed(guarded, "task:guarded.bug")) == 1


def test_a_guardian_inside_the_worker(guarded: Guarded) -> None:
    worker = guarded.worker("--guardian")
    guarded.tasks.bug.delay("bug")
    wait_until(lambda: (guarded.harness.folder / "archive.sqlite3").exists() and listed(guarded), 60, "the letter")
    assert worker.stop(60) == 0
