"""The poster against the Slack stand-in over real HTTP: whatever Slack does, one message, none lost."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

import pytest

from celery_guardrails.alerts.lease import StoreLease
from celery_guardrails.alerts.sinks.memory import MemorySink
from celery_guardrails.alerts.sinks.sink import Posted
from celery_guardrails.errors import Trouble, Undelivered
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
    assert "No new dead letter for 15m" in reply.text
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
    sink = driver.service.poster._sink
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
    driver.run(flush=True)
    driver.settle()
    assert driver.statuses() == {"failed": 1}
    assert "OnboardingEmail: 2 dead letters" in caplog.text


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
    driver.run(3601)
    assert driver.statuses()["failed"] >= 1
    assert "OnboardingEmail: 2 dead letters" in caplog.text


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


class Lease:
    """A lease whose fence the test sets."""

    held = None

    def __init__(self, fence):
        self.fence = fence

    def hold(self, now):
        return self.fence


def test_who_does_not_hold_the_lease_posts_nothing(drive, slack):
    driver = drive(lease=Lease(None))
    driver.die()
    report = driver.run(flush=True)
    assert report.queued == 1
    assert not report.delivery.leading
    assert slack.calls == []


def test_a_poster_that_was_overtaken_while_posting_writes_nothing(drive, slack, monkeypatch):
    old, new = drive(lease=Lease(1)), drive(lease=Lease(2))
    sink = old.service.poster._sink
    real = sink.post

    def slow(message, *, channel=None):
        posted = real(message, channel=channel)
        new.run()  # takes over while the old one waits for Slack
        return posted

    monkeypatch.setattr(sink, "post", slow)
    old.die()
    report = old.run(flush=True)
    assert report.delivery.sent == 0
    new.settle()
    assert len(slack.in_channel("#alerts")) == 1
    assert new.statuses() == {"sent": 1}


def test_an_overtaken_poster_cannot_claim(store, drive):
    driver = drive(sink=MemorySink(), lease=Lease(2))
    driver.service.poster._sink.trouble = [Undelivered(Trouble.RATE_LIMITED, "slow down", 10)]
    driver.die()
    driver.run(flush=True)
    old = drive(sink=MemorySink(), lease=Lease(1))
    old.run(3600)
    assert old.service.poster._sink.messages == {}


def test_one_of_two_guardians_posts_and_the_other_takes_over(drive, store, slack):
    first, second = (drive(lease=StoreLease(store, name)) for name in ("one", "two"))
    first.die()
    assert first.run(flush=True).delivery.leading
    assert not second.run(1).delivery.leading
    first.run(9)  # young enough: not even renewed
    first.run(11)
    second.now = first.now
    assert not second.run(15).delivery.leading
    first.service.close(second.now)
    assert second.run().delivery.leading
    first.now = second.now
    assert not first.run().delivery.leading
    first.service.close(first.now)
    assert second.run(31).delivery.leading  # expired, and nobody took it since
    assert len(slack.in_channel()) == 1


def test_who_lost_the_lease_without_knowing_sends_nothing(drive, store):
    sinks = MemorySink(), MemorySink()
    old, new = (drive(sink=sink, lease=StoreLease(store, name)) for sink, name in zip(sinks, "ab", strict=True))
    old.run()
    new.now = old.now + timedelta(seconds=31)
    new.run()  # its clock is ahead
    old.die()
    old.run(1, flush=True)
    assert sinks[0].messages == {}
    new.run(1)
    assert len(sinks[1].messages) == 1


@pytest.mark.parametrize("attempt", range(20))
def test_many_posters_at_once_post_once(drive, store, slack, attempt):
    drivers = [drive(lease=StoreLease(store, f"guardian-{number}")) for number in range(3)]
    drivers[0].die(5)
    barrier = threading.Barrier(len(drivers))

    def work(driver):
        barrier.wait()
        for _ in range(3):
            driver.run(1, flush=True)

    threads = [threading.Thread(target=work, args=(driver,)) for driver in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(report.events for driver in drivers for report in driver.reports) == 5
    (message,) = slack.in_channel("#alerts")
    assert header(message) == "OnboardingEmail: 5 dead letters (production)"


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
