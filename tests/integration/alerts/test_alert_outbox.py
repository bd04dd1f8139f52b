"""The poster against the Slack stand-in over real HTTP: whatever Slack does, one message, none lost."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest

from celery_guardrails.store import outbox
from celery_guardrails.testing import Mode

POST, EDIT = "chat.postMessage", "chat.update"


@pytest.fixture(autouse=True)
def quiet_log(caplog):
    caplog.set_level(logging.INFO)
    return caplog


def header(message):
    return message.blocks[0]["text"]["text"]


@pytest.mark.parametrize("mode", [*Mode, "fatal_error", "ratelimited"], ids=str)
def test_one_message_whatever_the_post_meets(drive, slack, mode):
    slack.slow_for = 1.5
    driver = drive()
    slack.script(POST, mode)
    driver.die(12)
    driver.run(flush=True)
    driver.settle()
    if mode == Mode.MESSAGE_NOT_FOUND:  # makes no sense for a post: refused for good, so it goes to the log
        assert slack.in_channel() == []
        assert driver.statuses() == {"failed": 1}
        return
    assert [header(message) for message in slack.in_channel("#alerts")] == [
        "OnboardingEmail: 12 dead letters (production)"
    ]
    assert driver.statuses() == {"sent": 1}


@pytest.mark.parametrize("mode", [*Mode, "cant_update_message", "edit_window_closed"], ids=str)
def test_growth_is_shown_whatever_the_edit_meets(drive, slack, mode):
    slack.slow_for = 1.5
    driver = drive()
    driver.die(1)
    driver.run(flush=True)
    slack.script(EDIT, mode)
    driver.die(4)
    driver.run(61)
    driver.settle()
    latest = slack.in_channel("#alerts")[-1]
    assert header(latest) == "OnboardingEmail: 5 dead letters (production)"
    anew = mode in (Mode.MESSAGE_NOT_FOUND, "cant_update_message", "edit_window_closed")
    assert len(slack.in_channel("#alerts")) == (2 if anew else 1)


@pytest.mark.parametrize("mode", [Mode.DROP_BEFORE, Mode.DROP_AFTER, Mode.SERVER_ERROR, Mode.SLOW], ids=str)
def test_one_reply_whatever_it_meets(drive, slack, mode):
    slack.slow_for = 1.5
    driver = drive()
    driver.die(1)
    driver.run(flush=True)
    slack.script(POST, mode)
    driver.run(15 * 60)
    driver.settle()
    (message,) = slack.in_channel("#alerts")
    (reply,) = message.replies
    assert "No new dead letter for 15 min" in reply.text
    assert "still need a decision" in reply.text or "needs a decision" in reply.text
    assert not reply.broadcast


@pytest.mark.parametrize("webhook_mode", [*Mode], ids=str)
def test_a_webhook_loses_nothing(drive, slack, webhook_mode):
    slack.slow_for = 1.5
    driver = drive(webhook=True)
    slack.script("webhook", webhook_mode)
    driver.die(3)
    driver.run(flush=True)
    driver.settle()
    posts = slack.in_channel()
    if webhook_mode == Mode.MESSAGE_NOT_FOUND:
        assert driver.statuses() == {"failed": 1}
        return
    # A webhook cannot be searched: what may have arrived is sent again, and says so.
    unsure = webhook_mode in (Mode.DROP_AFTER, Mode.SLOW)
    assert len(posts) == (2 if unsure else 1)
    if unsure:
        assert "Possible duplicate" in str(posts[-1].blocks)


@pytest.mark.parametrize("mode", [Mode.RATE_LIMITED, Mode.RATE_LIMITED_DATE])
def test_retry_after_is_honoured_and_is_not_an_attempt(drive, slack, mode):
    driver = drive()
    slack.retry_after = 40
    slack.script(POST, mode)
    driver.die()
    report = driver.run(flush=True)
    wait = (report.delivery.next_due - driver.now).total_seconds()
    assert 38 <= wait <= 40  # an HTTP date has whole seconds
    driver.run(37)
    assert slack.in_channel() == []
    driver.run(3)
    assert len(slack.in_channel()) == 1
    with driver.store.read() as conn:
        assert outbox.live(conn) == []


def test_429_again_and_again_never_drops(drive, slack):
    driver = drive()
    slack.script(POST, *[Mode.RATE_LIMITED_BARE] * 50)
    driver.die()
    driver.run(flush=True)
    driver.settle(within=7200)
    assert len(slack.in_channel()) == 1


def test_a_429_holds_back_the_other_groups_of_the_channel(drive, slack):
    driver = drive()
    slack.script(POST, Mode.RATE_LIMITED)
    driver.die(task="a.One")
    driver.die(task="b.Two")
    driver.run(flush=True)
    assert slack.calls.count(POST) == 1
    driver.run(29)
    assert slack.calls.count(POST) == 1
    driver.settle()
    assert len(slack.in_channel()) == 2


def test_one_message_a_second(drive, slack):
    driver = drive()
    for name in "abc":
        driver.die(task=f"shop.{name}")
    driver.run(flush=True)
    assert len(slack.in_channel()) == 1
    driver.run(0.9)
    assert len(slack.in_channel()) == 1
    driver.run(0.1)
    assert len(slack.in_channel()) == 2
    driver.settle()
    assert len(slack.in_channel()) == 3


class Crash(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("arrived", [True, False])
def test_a_crash_between_sending_and_the_stored_ts_ends_with_one_message(drive, slack, arrived, monkeypatch):
    driver = drive()
    sink = driver.service.poster.sinks.default
    real = sink.post

    def crash(message, *, channel=None):
        if arrived:
            real(message, channel=channel)
        raise Crash

    monkeypatch.setattr(sink, "post", crash)
    driver.die(2)
    with pytest.raises(Crash):
        driver.run(flush=True)
    assert driver.statuses() == {"sending": 1}
    later = drive()  # a new process
    later.settle()
    assert len(slack.in_channel("#alerts")) == 1
    assert later.statuses() == {"sent": 1}
    later.counter = 100
    later.die(1)
    later.run(61)
    later.settle()
    (message,) = slack.in_channel("#alerts")
    assert header(message) == "OnboardingEmail: 3 dead letters (production)"


def test_absent_twice_five_seconds_apart_before_it_is_sent_again(drive, slack):
    driver = drive()
    slack.script(POST, Mode.OK)
    driver.die(task="warm.Up")
    driver.run(flush=True)
    driver.run(2)
    slack.script(POST, Mode.DROP_BEFORE)
    driver.die()
    first = driver.run(flush=True)
    driver.now = first.delivery.next_due
    look = driver.run()
    assert slack.calls.count("conversations.history") == 1
    assert look.delivery.next_due == driver.now + timedelta(seconds=5)
    driver.run(4)
    assert slack.calls.count("conversations.history") == 1
    driver.run(1)
    assert slack.calls.count("conversations.history") == 2
    assert len(slack.in_channel()) == 2


@pytest.mark.parametrize("missing", ["history", "list"])
def test_without_the_scope_to_look_it_is_sent_again_and_marked(drive, slack, missing):
    slack.scopes.discard(missing)
    driver = drive()
    slack.script(POST, Mode.DROP_AFTER)
    driver.die()
    driver.run(flush=True)
    driver.settle()
    first, second = slack.in_channel("#alerts")
    assert "Possible duplicate" not in str(first.blocks)
    assert "Possible duplicate" in str(second.blocks)


@pytest.mark.parametrize("mode", [Mode.SERVER_ERROR, Mode.RATE_LIMITED, Mode.DROP_BEFORE, Mode.HTML], ids=str)
def test_a_search_that_fails_is_tried_again(drive, slack, mode):
    driver = drive()
    driver.die(task="warm.Up")
    driver.run(flush=True)
    driver.run(2)
    slack.script(POST, Mode.DROP_AFTER)
    slack.script("conversations.history", mode, mode)
    driver.die()
    driver.run(flush=True)
    driver.settle()
    assert len(slack.in_channel("#alerts")) == 2
    assert driver.statuses() == {"sent": 2}
