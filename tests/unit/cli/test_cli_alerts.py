"""`guardrails alerts list` and `test`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from celery_guardrails import clock
from celery_guardrails.alerts.event import LettersChanged
from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.store import alert
from celery_guardrails.testing.slack import SlackStandIn
from tests.unit.cli.conftest import Shop, lines
from tests.unit.cli.deaths import dead


@pytest.fixture
def slack(shop: Shop) -> Iterator[SlackStandIn]:
    """A stand-in that the shop's alerts go to."""
    with SlackStandIn() as stand_in:
        shop.app.conf.guardrails |= {"slack": {"token": "xoxb-1", "channel": "C1", "base_url": stand_in.base_url}}
        yield stand_in


def test_list_shows_the_groups_and_their_states(shop: Shop) -> None:
    shop.archive(dead(1), dead(2), dead(3, task="shop.import"))
    shop.run("guardian", "--once")
    found = {group["task"]: group for group in shop.json("alerts", "list")}
    assert found["shop.mail"]["letters"] == 2
    assert found["shop.mail"]["state"] == "open"
    assert found["shop.mail"]["last_at"] == "2026-03-01T14:02:00+00:00"
    result = shop.run("alerts", "list")
    assert [line.split()[2] for line in lines(result.stdout)[1:]] == ["shop.import", "shop.mail"]
    assert "TimeoutError: smtp did not answer" in result.stdout
    assert "2 alert groups; alerts go to the log" in result.stderr
    assert shop.json("alerts", "list", "--state", "resolved") == []


def test_a_resolved_alert_says_how_many_are_undecided(shop: Shop) -> None:
    store = shop.archive(dead(1), dead(2), dead(3, task="shop.import"))
    shop.run("guardian", "--once")
    with store.begin() as conn:
        for row in alert.load_groups(conn, states=["open"]):
            left = LettersChanged(dead=2) if row.task == "shop.mail" else LettersChanged(recovered=1)
            group = replace(AlertGroup.from_payload(row.data), state=GroupState.RESOLVED, letters=left)
            assert alert.save_group(conn, replace(row, state="resolved", data=group.as_payload()), clock.now())
    shown = {line.split()[0]: line for line in lines(shop.run("alerts", "list").stdout)[1:]}
    assert sum("resolved, 2 undecided" in line and "shop.mail" in line for line in shown.values()) == 1
    assert sum("undecided" not in line and "shop.import" in line for line in shown.values()) == 1
    assert {group["state"] for group in shop.json("alerts", "list")} == {"resolved"}


def test_no_alert_at_all(shop: Shop) -> None:
    shop.archive()
    assert shop.run("alerts", "list").stdout == ""
    assert shop.json("alerts", "list") == []


def test_a_test_alert_goes_to_the_log_when_no_slack_is_set(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    result = shop.run("alerts", "test")
    assert result.stdout == "The test alert was sent to the log, because no Slack is set.\n"
    assert "Test alert from celery-guardrails (test)" in caplog.text


def test_a_test_alert_arrives_at_slack(shop: Shop, slack: SlackStandIn) -> None:
    assert shop.json("alerts", "test") == {"sink": "slack", "sent": True, "channel": "C1", "problem": None}
    (message,) = slack.in_channel()
    assert "Test alert from celery-guardrails" in message.text


def test_a_test_alert_that_does_not_arrive_says_why(shop: Shop, slack: SlackStandIn) -> None:
    slack.script("chat.postMessage", "channel_not_found", "channel_not_found")
    result = shop.run("alerts", "test")
    assert result.exit_code == 1
    assert len(lines(result.stderr)) == 1
    assert "did not arrive at Slack, channel C1: channel_not_found" in result.stderr
    assert shop.json("alerts", "test", code=1)["problem"] == "channel_not_found"
