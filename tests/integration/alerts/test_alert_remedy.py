"""What the poster does about trouble that waiting does not mend, against the Slack stand-in over real HTTP."""

from __future__ import annotations

import logging

import pytest

from celery_guardrails.alerts.sinks.memory import MemorySink
from celery_guardrails.alerts.sinks.sink import Posted
from celery_guardrails.errors import Trouble, Undelivered
from celery_guardrails.testing import Mode

POST, EDIT = "chat.postMessage", "chat.update"


@pytest.fixture(autouse=True)
def quiet_log(caplog):
    caplog.set_level(logging.INFO)
    return caplog


def header(message):
    return message.blocks[0]["text"]["text"]


@pytest.mark.parametrize("word", ["invalid_auth", "token_revoked", "missing_scope", "account_inactive"])
def test_bad_credentials_go_to_the_log_and_come_back_once(drive, slack, word, caplog):
    driver = drive()
    driver.die(2, task="shop.Known")
    driver.run(flush=True)
    slack.mode = word
    driver.die(3)
    driver.die(3, task="shop.Known")
    for _ in range(10):
        driver.run(30)
    logged = [record.getMessage() for record in caplog.records if record.name == "celery_guardrails.alerts"]
    assert len([text for text in logged if text.startswith("OnboardingEmail: 3 dead letters")]) == 1
    assert driver.reports[-1].delivery.circuit_open
    posts = slack.calls.count(POST)
    driver.run(1)
    assert slack.calls.count(POST) == posts
    driver.die(4)
    driver.run(61)
    slack.mode = Mode.OK
    driver.settle()
    headers = sorted(header(message) for message in slack.in_channel("#alerts"))
    assert headers == ["Known: 5 dead letters (production)", "OnboardingEmail: 7 dead letters (production)"]
    assert slack.calls.count("auth.test") >= 2
    assert "xoxb" not in caplog.text


def test_a_webhook_that_was_removed_posts_one_present_state_later(drive, slack, caplog):
    driver = drive(webhook=True)
    slack.mode = Mode.INVALID_AUTH
    driver.die(3)
    driver.run(flush=True)
    for _ in range(5):
        driver.run(5 * 60)
    logged = [record for record in caplog.records if record.name == "celery_guardrails.alerts"]
    assert [record.levelno for record in logged] == [logging.WARNING] * 2  # opened, resolved
    slack.mode = Mode.OK
    driver.settle()
    (message,) = slack.in_channel()
    assert header(message) == "OnboardingEmail: 3 dead letters (production), no new ones"


def test_what_is_worse_while_the_credentials_are_bad_is_in_the_log(drive, slack, caplog):
    driver = drive(cooldown="1m")
    driver.die(1)
    driver.run(flush=True)
    slack.mode = Mode.INVALID_AUTH
    driver.die(30)
    driver.run(61)
    driver.run(2)
    assert "It got worse: 31 dead letters now, 1 at the last message here" in caplog.text
    slack.mode = Mode.OK
    driver.settle()
    (message,) = slack.in_channel("#alerts")
    assert header(message) == "OnboardingEmail: 31 dead letters (production)"
    assert message.replies == []


@pytest.mark.parametrize("word", ["not_in_channel", "channel_not_found", "is_archived"])
def test_a_closed_channel_sends_it_to_the_fallback_once(drive, slack, word):
    driver = drive(slack_settings={"fallback_channel": "#ops"})
    slack.script(POST, word)
    driver.die(2)
    driver.run(flush=True)
    driver.settle()
    assert slack.in_channel("#alerts") == []
    (message,) = slack.in_channel("#ops")
    assert word in str(message.blocks[-1])
    driver.die(2)
    driver.run(61)
    (message,) = slack.in_channel("#ops")
    assert header(message) == "OnboardingEmail: 4 dead letters (production)"


def test_a_closed_channel_without_a_fallback_goes_to_the_log(drive, slack, caplog):
    driver = drive()
    slack.mode = "not_in_channel"
    driver.die(2)
    driver.run(flush=True)
    driver.die(2)
    driver.run(61)
    driver.settle()
    assert caplog.text.count("OnboardingEmail: 2 dead letters (production)\n") == 1
    # Whoever invites the app sees what comes next.
    slack.mode = Mode.OK
    driver.run(15 * 60)
    driver.settle()
    (message,) = slack.in_channel("#alerts")
    assert header(message) == "OnboardingEmail: 4 dead letters (production), no new ones"


def test_both_channels_closed_goes_to_the_log(drive, slack, caplog):
    driver = drive(slack_settings={"fallback_channel": "#ops"})
    slack.mode = "not_in_channel"
    driver.die(2)
    for _ in range(30):
        driver.run(60)
    assert driver.statuses("fallback") == {"sent": 1}
    assert caplog.text.count("OnboardingEmail: 2 dead letters (production)\n") == 1
    slack.mode = Mode.OK
    driver.run(15 * 60)
    driver.settle()
    (message,) = slack.in_channel("#alerts")
    assert header(message) == "OnboardingEmail: 2 dead letters (production), no new ones"
    assert slack.in_channel("#ops") == []


@pytest.mark.parametrize("word", ["invalid_blocks", "msg_blocks_too_long"])
def test_rejected_blocks_are_sent_as_plain_text(drive, slack, word):
    driver = drive()
    slack.script(POST, word)
    driver.die(2, message="a < b & <!channel>")
    driver.run(flush=True)
    driver.settle()
    (message,) = slack.in_channel("#alerts")
    assert message.blocks == []
    assert message.text.startswith("OnboardingEmail: 2 dead letters (production)")
    assert "a &lt; b &amp; &lt;!" in message.text
    assert "<!channel>" not in message.text


def test_rejected_twice_goes_to_the_log(drive, slack, caplog):
    driver = drive()
    slack.mode = "msg_too_long"
    driver.die(2)
    driver.run(flush=True)
    driver.settle()
    assert driver.statuses() == {"failed": 1}
    assert "OnboardingEmail: 2 dead letters" in caplog.text


def test_a_slack_that_is_down_for_a_day_gives_the_alert_to_the_log(drive, slack, caplog):
    driver = drive(slack_settings={"base_url": "http://127.0.0.1:1/api/"})
    driver.die(2)
    driver.run(flush=True)
    assert driver.statuses() == {"pending": 1}  # nobody listens: it certainly did not arrive
    for _ in range(23):
        driver.run(3600)
    assert "OnboardingEmail: 2 dead letters" not in caplog.text
    for _ in range(5):
        driver.run(3601)
    assert caplog.text.count("OnboardingEmail: 2 dead letters (production), no new ones\n") == 1
    assert "did not take it" in caplog.text


def test_a_slack_that_comes_back_after_a_day_shows_the_present_state_once(drive, slack, caplog):
    driver = drive()
    slack.mode = Mode.SERVER_ERROR
    driver.die(2)
    driver.run(flush=True)
    for _ in range(50):
        driver.run(3600)
    assert driver.statuses("fallback") == {"sent": 2}  # opened, resolved
    slack.mode = Mode.OK
    driver.settle()
    driver.run(600)
    (message,) = slack.in_channel("#alerts")
    assert header(message) == "OnboardingEmail: 2 dead letters (production), no new ones"
    assert message.replies == []


def test_after_a_week_an_alert_is_not_tried_again(drive, slack):
    driver = drive()
    slack.mode = Mode.SERVER_ERROR
    driver.die(2)
    driver.run(flush=True)
    for _ in range(8 * 24):
        driver.run(3600)
    assert set(driver.statuses()) <= {"failed", "sent"}
    assert driver.reports[-1].delivery.waiting == 0


def test_a_sink_that_breaks_breaks_nothing(drive, monkeypatch):
    sink = MemorySink()
    driver = drive(sink=sink)
    monkeypatch.setattr(sink, "check", lambda: 1 / 0)
    calls = iter([ZeroDivisionError("bug"), KeyError("x")])

    def post(message, *, channel=None):
        raise next(calls, None) or Undelivered(Trouble.REFUSED, "no")

    monkeypatch.setattr(sink, "post", post)
    driver.die()
    driver.run(flush=True)
    driver.settle()
    assert driver.statuses() == {"failed": 1}


def test_edits_wait_for_the_post_and_coalesce(drive, slack):
    driver = drive()
    slack.script(POST, *[Mode.RATE_LIMITED] * 3)
    driver.die()
    driver.run(flush=True)
    for _ in range(3):
        driver.die()
        driver.run(61, flush=True)
    driver.settle()
    (message,) = slack.in_channel("#alerts")
    assert header(message) == "OnboardingEmail: 4 dead letters (production)"
    assert len(message.edits) <= 1


def test_a_webhook_in_place_of_a_token_says_what_is_left(drive, slack):
    driver = drive()
    driver.die()
    driver.run(flush=True)
    driver.die(30)
    slack.script(EDIT, Mode.RATE_LIMITED)
    slack.script(POST, Mode.RATE_LIMITED)
    driver.run(31 * 60)
    hook = drive(webhook=True)
    hook.now = driver.now
    hook.settle()
    assert hook.statuses() == {"sent": 3}
    (message,) = slack.in_channel("#webhook")
    assert header(message) == "OnboardingEmail: 31 dead letters (production)"


def test_log_always_copies_new_messages(drive, slack, caplog):
    driver = drive(log_always=True)
    driver.die(2)
    driver.run(flush=True)
    driver.die(2)
    driver.run(61)
    logged = [record.getMessage() for record in caplog.records if record.name == "celery_guardrails.alerts"]
    assert len(logged) == 1
    assert len(slack.in_channel("#alerts")) == 1


def test_an_adopted_message_is_where_edits_go(drive):
    sink = MemorySink()
    driver = drive(sink=sink)
    real = sink.post

    def lose(message, *, channel=None):
        real(message, channel=channel)
        raise Undelivered(Trouble.UNCERTAIN, "timed out")

    sink.post = lose
    driver.die()
    driver.run(flush=True)
    driver.settle()
    driver.die()
    driver.run(61)
    (kept,) = sink.messages.values()
    assert kept.posted == Posted("1", "memory")
    assert "2 dead letters" in kept.message.text
