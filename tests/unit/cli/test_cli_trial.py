"""`guardrails alerts test`: one message to each place where an alert may go, and what to do about those that fail."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from celery_guardrails import Alert, SinkError
from celery_guardrails.testing import Mode, SentryStandIn, SlackStandIn
from celery_guardrails.testing.server import Answer
from tests.sentry_client import sentry_client
from tests.unit.cli.conftest import Shop, lines
from tests.web import Web

POST = "chat.postMessage"
SECRETS = ("hunter2xyz", "t0ken", "xoxb-1")


class Pager:
    """A sink of the user's own, which keeps what it got."""

    got: list[Alert] = []

    def send(self, alert: Alert) -> None:
        self.got.append(alert)


class Refuses:
    """One that takes nothing."""

    def send(self, alert: Alert) -> None:
        raise SinkError("nobody is on duty", retryable=False)


class Broken:
    """One that cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no PAGER_KEY")


HERE = f"{__name__}."


@pytest.fixture
def slack(shop: Shop) -> Iterator[SlackStandIn]:
    """A stand-in that the shop's alerts go to."""
    with SlackStandIn() as stand_in:
        given = {"token": "xoxb-1", "channel": "#alerts", "base_url": stand_in.base_url, "timeout": "1s"}
        shop.app.conf.guardrails |= {"slack": given}
        yield stand_in


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as standing_in:
        yield standing_in


@pytest.fixture(autouse=True)
def nobody_paged() -> None:
    Pager.got.clear()


def set_alerts(shop: Shop, *to: str, **further: Any) -> None:
    """One route for each of these places."""
    routes = [{"task": f"shop.{number}", "to": place} for number, place in enumerate(to)]
    shop.app.conf.guardrails |= {"alerts": {"routes": routes, **further}}


def outcome(shop: Shop, *words: str, code: int = 0) -> dict[str, bool]:
    """Each place, and whether it took the message."""
    return {each["sink"]: each["sent"] for each in shop.json("alerts", "test", *words, code=code)}


def test_without_any_sink_the_log_gets_it(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    result = shop.run("alerts", "test")
    assert result.stdout == "sent    log  alerts.fallback\n"
    assert caplog.text.count("Test alert from celery-guardrails (test)") == 1


def test_each_place_gets_one_message(shop: Shop, slack: SlackStandIn, web: Web) -> None:
    escalation = [{"after": "15m", "mention": "<@U012AB3CD>"}, {"after": "30m", "channel": "#everybody"}]
    set_alerts(
        shop, "#billing", web.apprise_url, f"{HERE}Pager", "#billing", "slack", web.apprise_url,
        escalation=escalation, fallback=f"{HERE}Pager", log_always=True,
    )  # fmt: skip
    shop.app.conf.guardrails["slack"]["fallback_channel"] = "#spare"
    found = shop.json("alerts", "test")
    assert {name: len(slack.in_channel(name)) for name in slack.channels} == {
        "#alerts": 1, "#billing": 1, "#everybody": 1, "#spare": 1,
    }  # fmt: skip
    assert len(web.posted) == 1
    ((alert),) = Pager.got
    assert (alert.notice, alert.uid) == ("test", "")
    assert [each["settings"] for each in found] == [
        ["slack.channel", "alerts.routes.4.to"],
        ["alerts.routes.0.to", "alerts.routes.3.to"],
        ["alerts.routes.1.to", "alerts.routes.5.to"],
        ["alerts.routes.2.to", "alerts.fallback"],
        ["alerts.escalation.1.channel"],
        ["slack.fallback_channel"],
        ["alerts.log_always"],
    ]
    assert all(each["sent"] and each["problem"] is None and each["fix"] is None for each in found)


def test_one_line_for_each_place_and_no_secret(shop: Shop, slack: SlackStandIn, web: Web) -> None:
    set_alerts(shop, web.apprise_url)
    result = shop.run("alerts", "test")
    assert [line.split()[0] for line in lines(result.stdout)] == ["sent", "sent", "sent"]
    assert "apprise json " in result.stdout
    assert "3 places, none failed." in result.stderr
    assert not [secret for secret in SECRETS if secret in result.output]


def test_a_channel_that_is_named_and_given_by_its_id_gets_one_message(shop: Shop, slack: SlackStandIn) -> None:
    channel = slack.create_channel("#billing")
    set_alerts(shop, channel, "#billing")
    found = {each["sink"]: each for each in shop.json("alerts", "test")}
    assert len(slack.in_channel("#billing")) == 1
    assert (found[channel]["sent"], found[channel]["same_as"], found[channel]["problem"]) == (False, "#billing", None)
    assert f"same    {channel}" in shop.run("alerts", "test").stdout


def test_a_name_with_and_without_its_sign_is_one_channel(shop: Shop, slack: SlackStandIn) -> None:
    shop.app.conf.guardrails["slack"]["channel"] = "alerts"
    set_alerts(shop, "#alerts")
    assert outcome(shop) == {"alerts": True, "log": True}
    assert len(slack.messages) == 1


@pytest.mark.parametrize(
    ("answer", "problem", "fix"),
    [
        ("not_in_channel", "not_in_channel", "invite the bot to #billing"),
        ("channel_not_found", "channel_not_found", "correct alerts.routes.0.to"),
        ("is_archived", "is_archived", "unarchive #billing"),
        ("invalid_auth", "invalid_auth", "correct slack.token"),
        ("missing_scope", "missing_scope", "chat:write"),
        (Mode.RATE_LIMITED, "ratelimited", "try again in"),
        (Mode.SERVER_ERROR, "internal_error", "it may have arrived"),
        (Mode.DROP_AFTER, "", "it may have arrived"),
    ],
    ids=str,
)
def test_a_channel_that_does_not_take_it_says_what_to_do(
    shop: Shop, slack: SlackStandIn, answer: Mode | str, problem: str, fix: str
) -> None:
    set_alerts(shop, "#billing", "#further")
    slack.script(POST, Mode.OK, answer)
    found = shop.json("alerts", "test", code=1)
    assert [each["sent"] for each in found] == [True, False, True, True]
    assert problem in found[1]["problem"]
    assert fix in found[1]["fix"]
    slack.script(POST, Mode.OK, answer)
    result = shop.run("alerts", "test")
    assert result.exit_code == 1
    (line,) = [line for line in lines(result.stdout) if line.startswith("failed")]
    assert "#billing" in line
    assert fix in line
    assert "4 places, 1 failed." in result.stderr


def test_nobody_listens(shop: Shop) -> None:
    given = {"token": "xoxb-1", "channel": "#alerts", "base_url": "http://127.0.0.1:1/api/", "timeout": "1s"}
    shop.app.conf.guardrails |= {"slack": given}
    found = shop.json("alerts", "test", code=1)
    assert [each["sent"] for each in found] == [False, True]
    assert "nothing was sent" in found[0]["fix"]


def test_a_webhook_is_the_usual_place_and_reaches_no_other_channel(shop: Shop) -> None:
    with SlackStandIn() as slack:
        shop.app.conf.guardrails |= {"slack": {"webhook_url": slack.webhook_url}}
        set_alerts(shop, "#billing", escalation=[{"after": "30m", "channel": "#everybody"}])
        found = {each["sink"]: each for each in shop.json("alerts", "test", code=1)}
        assert {name: each["sent"] for name, each in found.items()} == {
            "slack webhook": True, "#billing": False, "#everybody": False, "log": True,
        }  # fmt: skip
        assert "its alerts go to slack webhook" in found["#billing"]["problem"]
        assert "GUARDRAILS_SLACK_TOKEN" in found["#everybody"]["fix"]
        assert len(slack.messages) == 1
        slack.script("webhook", "no_service")
        result = shop.run("alerts", "test", "--sink", "slack")
        assert result.exit_code == 1
        assert "no_service. To do: make a new webhook" in result.stdout
        assert "/services/" not in result.output


@pytest.mark.parametrize(
    ("place", "problem", "fix"),
    [
        (f"{HERE}Refuses", "nobody is on duty", "`send`"),
        (f"{HERE}Broken", "no PAGER_KEY", "correct alerts.routes.0.to"),
        (f"{HERE}Nothing", "AttributeError", "correct alerts.routes.0.to"),
        ("nosuch://ada:hunter2xyz@example.com/t0ken", "apprise does not know this URL", "apprise's list of services"),
        ("json://ada:hunter2xyz@127.0.0.1:1/t0ken", "could not deliver", "see whether alerts.routes.0.to"),
    ],
)
def test_a_sink_of_a_route_that_fails_keeps_no_other_from_it(
    shop: Shop, slack: SlackStandIn, place: str, problem: str, fix: str
) -> None:
    set_alerts(shop, place, f"{HERE}Pager")
    found = shop.json("alerts", "test", code=1)
    assert [each["sent"] for each in found] == [True, False, True, True]
    assert problem in found[1]["problem"]
    assert fix in found[1]["fix"]
    assert len(Pager.got) == 1
    assert not [secret for secret in SECRETS if secret in str(found) + shop.run("alerts", "test").output]


def test_an_apprise_service_that_refuses(shop: Shop, web: Web) -> None:
    set_alerts(shop, web.apprise_url)
    web.answer_with = Answer(401)
    found = shop.json("alerts", "test", code=1)
    refused = next(each for each in found if each["sink"].startswith("apprise"))
    assert (refused["problem"], refused["fix"]) == ("HTTP 401", "correct the URL in alerts.routes.0.to")


def test_sentry_with_and_without_an_application_that_initialised_it(shop: Shop) -> None:
    set_alerts(shop, "sentry")
    with SentryStandIn() as sentry:
        with sentry_client(""):
            found = shop.json("alerts", "test", "--sink", "sentry", code=1)
        assert "sentry_sdk.init" in found[0]["fix"]
        with sentry_client(sentry.dsn):
            assert outcome(shop, "--sink", "sentry") == {"sentry": True}
            (event,) = sentry.wait_for(1)
    assert event["level"] == "info"
    assert "Test alert" in event["message"]


@pytest.mark.parametrize("name", ["#billing", "alerts.routes.0.to"])
def test_one_place_alone(shop: Shop, slack: SlackStandIn, name: str) -> None:
    set_alerts(shop, "#billing", f"{HERE}Pager")
    assert outcome(shop, "--sink", name) == {"#billing": True}
    assert list(slack.channels) == ["#billing"]
    assert Pager.got == []


def test_an_unknown_place_is_refused_with_the_nearest(shop: Shop, slack: SlackStandIn) -> None:
    set_alerts(shop, "#billing")
    result = shop.run("alerts", "test", "--sink", "#biling")
    assert result.exit_code == 1
    assert "No alert goes to '#biling'. Did you mean '#billing'?" in result.stderr
    assert "#alerts, #billing, log" in shop.run("alerts", "test", "--sink", "pagerduty").stderr
    assert slack.messages == {}
