"""`guardrails alerts`: what people see of alerts, and what they do about them."""

from __future__ import annotations

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


def opened(shop: Shop, task: str = "shop.mail") -> str:
    """The id of an alert that is open."""
    shop.archive(dead(1, task=task), dead(2, task=task))
    shop.run("guardian", "--once")
    (found,) = shop.json("alerts", "list")
    return str(found["id"])


def test_show_has_the_message_and_what_was_sent(shop: Shop, slack: SlackStandIn) -> None:
    alert_id = opened(shop)
    shown = shop.run("alerts", "show", alert_id[:6])
    assert "mail: 2 dead letters (test)" in shown.stdout
    assert "opened" in shown.stdout
    as_json = shop.json("alerts", "show", alert_id)
    assert as_json["letters"] == 2
    assert [(each["kind"], each["reason"], each["status"]) for each in as_json["notifications"]] == [
        ("post", "opened", "sent")
    ]


def test_ack_is_audited_and_listed(shop: Shop) -> None:
    alert_id = opened(shop)
    result = shop.run("alerts", "ack", alert_id[:6], "--for", "2h", "--by", "ada", "--reason", "on it")
    assert result.stdout.startswith(f"ada takes care of alert {alert_id} (shop.mail) until ")
    (found,) = shop.json("alerts", "list")
    assert (found["state"], found["acknowledged_by"]) == ("acknowledged", "ada")
    assert found["acknowledged_until"]
    (entry,) = shop.json("audit", "list", "--action", "acknowledge")
    assert (entry["actor"], entry["target"], entry["reason"]) == ("ada", alert_id, "on it")
    assert "Nobody takes care" in shop.run("alerts", "unack", alert_id, "--by", "ada").stdout
    assert shop.json("alerts", "list")[0]["state"] == "open"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["ack", "ffff"], "there is no alert ffff"),
        (["unack", "ID"], "is not acknowledged"),
        (["ack", "ID", "--for", "8d"], "lasts from 1 minute to 7 d"),
        (["show", "ffff"], "there is no alert ffff"),
        (["unsilence", "ffff"], "no silence that lasts has the id ffff"),
        (["silence", "shop.mial", "--for", "1h", "--reason", "r"], "did you mean shop.mail"),
        (["silence", "shop.mail", "--for", "8d", "--reason", "r"], "7 d at most"),
    ],
)
def test_what_cannot_be_done_says_why(shop: Shop, words: list[str], problem: str) -> None:
    alert_id = opened(shop)
    result = shop.run("alerts", *[alert_id if word == "ID" else word for word in words])
    assert result.exit_code == 1
    assert problem in result.stderr
    assert len(lines(result.stderr)) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["silence", "shop.mail", "--reason", "r"],
        ["silence", "shop.mail", "--for", "1h"],
        ["silence", "shop.mail", "--for", "1h", "--reason", "  "],
        ["silence", "shop.mail", "--for", "soon", "--reason", "r"],
        ["silence", "shop.mail", "--for", "0", "--reason", "r"],
        ["silence", "shop.mail", "--for", "-1h", "--reason", "r"],
    ],
)
def test_a_silence_without_an_end_or_a_reason_is_refused(shop: Shop, words: list[str]) -> None:
    shop.archive(dead(1))
    result = shop.run("alerts", *words)
    assert result.exit_code in (1, 2), result.output
    assert shop.json("alerts", "silences") == []


def test_a_silence_is_listed_and_ended(shop: Shop) -> None:
    opened(shop)
    made = shop.json("alerts", "silence", "shop.*", "--for", "1h", "--reason", "deploy", "--by", "ada")
    assert (made["task"], made["created_by"], made["reason"]) == ("shop.*", "ada", "deploy")
    assert [one["id"] for one in shop.json("alerts", "silences")] == [made["id"]]
    assert "deploy" in shop.run("alerts", "silences").stdout
    assert shop.json("alerts", "list")[0]["silenced_until"] == made["until"]
    assert "silenced" in shop.run("alerts", "list").stdout
    assert "has ended" in shop.run("alerts", "unsilence", made["id"][:5], "--by", "ada").stdout
    assert shop.json("alerts", "silences") == []
    assert [entry["action"] for entry in shop.json("audit", "list")][:2] == ["unsilence", "silence"]


def test_simulate_shows_what_the_settings_would_have_posted(shop: Shop) -> None:
    shop.archive(*(dead(number) for number in range(1, 13)), dead(13, task="shop.import"))
    found = shop.json("alerts", "simulate", "--days", "400")
    opened = [(each["task"], each["letters"]) for each in found if each["reason"] == "opened"]
    assert opened == [("shop.mail", 1), ("shop.import", 1)]
    assert [each["letters"] for each in found if each["reason"] == "worse_total"] == [11]
    result = shop.run("alerts", "simulate", "--days", "400")
    assert "opened" in result.stdout
    assert "about 13 events in 400 days" in result.stderr
    assert shop.json("alerts", "list") == []


def test_simulate_plays_the_present_thresholds(shop: Shop) -> None:
    shop.archive(*(dead(number) for number in range(1, 13)))
    shop.app.conf.guardrails |= {"alerts": {"thresholds": {"dead_letter": {"count": 50}}}}
    assert shop.json("alerts", "simulate", "--days", "400") == []
