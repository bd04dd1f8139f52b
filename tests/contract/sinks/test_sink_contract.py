"""What every sink keeps: one suite, all sinks."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from pydantic import SecretStr

from celery_guardrails import clock
from celery_guardrails.alerts.sinks.apprise import AppriseSink
from celery_guardrails.alerts.sinks.build import build_sink
from celery_guardrails.alerts.sinks.log import LOGGER_NAME, LogSink
from celery_guardrails.alerts.sinks.memory import MemorySink
from celery_guardrails.alerts.sinks.own import OwnSink
from celery_guardrails.alerts.sinks.sentry import SentrySink
from celery_guardrails.alerts.sinks.sink import Message, Posted, Sink
from celery_guardrails.alerts.sinks.slack import SlackSink, SlackWebhookSink
from celery_guardrails.errors import Trouble, Undelivered
from celery_guardrails.settings import SlackSettings
from celery_guardrails.testing import Mode, SentryStandIn, SlackStandIn
from tests.sentry_client import sentry_client
from tests.web import Web

BLOCKS = ({"type": "section", "text": {"type": "mrkdwn", "text": "rich"}},)
ONE = Message("one line", "one\nplain <b>", BLOCKS, "uid-1")
TWO = Message("two lines", "two\nplain", BLOCKS, "uid-2")
SINKS = ["memory", "log", "slack", "webhook", "apprise", "sentry", "own"]


@pytest.fixture
def slack():
    with SlackStandIn() as standing_in:
        yield standing_in


def settings(slack, **fields):
    return SlackSettings(**{"base_url": slack.base_url, "timeout": 1, **fields})


class Own:
    """A sink of a user's."""

    def __init__(self):
        self.alerts = []

    def send(self, alert):
        self.alerts.append(alert)


@pytest.fixture
def web():
    with Web() as standing_in:
        yield standing_in


@pytest.fixture
def sentry():
    with SentryStandIn() as standing_in, sentry_client(standing_in.dsn, shutdown_timeout=0):
        yield standing_in


@pytest.fixture
def make(slack, web, sentry):
    def build(name):
        return {
            "apprise": lambda: AppriseSink("apprise json", web.apprise_url),
            "sentry": SentrySink,
            "own": lambda: OwnSink("shop.Own", Own()),
            "memory": MemorySink,
            "log": LogSink,
            "slack": lambda: build_sink(settings(slack, token="xoxb-secret", channel="#alerts")),
            "webhook": lambda: build_sink(settings(slack, webhook_url=slack.webhook_url)),
        }[name]()

    return build


@pytest.mark.parametrize("name", SINKS)
def test_it_is_a_sink(make, name):
    sink = make(name)
    assert isinstance(sink, Sink)
    assert sink.name
    assert sink.min_gap >= 0
    sink.check()


@pytest.mark.parametrize("name", SINKS)
def test_it_posts_and_says_where(make, name):
    posted = make(name).post(ONE)
    assert isinstance(posted, Posted)
    assert posted.ts
    assert posted.channel


@pytest.mark.parametrize("name", SINKS)
def test_it_edits_and_replies_or_refuses(make, name):
    sink = make(name)
    posted = sink.post(ONE)
    if sink.can_edit:
        sink.edit(posted, TWO)
        reply = sink.reply(posted, TWO, broadcast=True)
        assert reply.ts != posted.ts
        return
    with pytest.raises(Undelivered) as refused:
        sink.edit(posted, TWO)
    assert refused.value.trouble is Trouble.REFUSED
    with pytest.raises(Undelivered) as refused:
        sink.reply(posted, TWO)
    assert not refused.value.retryable


@pytest.mark.parametrize("name", SINKS)
def test_it_finds_or_refuses(make, name):
    sink, since = make(name), clock.now() - timedelta(minutes=1)
    posted = sink.post(ONE)
    if not sink.can_find:
        with pytest.raises(Undelivered) as refused:
            sink.find("uid-1", since=since)
        assert refused.value.trouble is Trouble.REFUSED
        return
    assert sink.find("uid-1", since=since) == posted
    assert sink.find("uid-2", since=since) is None
    reply = sink.reply(posted, TWO)
    assert sink.find("uid-2", since=since, channel=posted.channel, thread=posted.ts) == reply
    assert sink.find("uid-3", since=since, channel=posted.channel, thread=posted.ts) is None


@pytest.mark.parametrize("name", ["memory", "slack"])
def test_a_message_that_is_gone_is_said_to_be_gone(make, name):
    sink = make(name)
    sink.post(ONE)
    nowhere = Posted("1.000001", "C1")
    for call in (lambda: sink.edit(nowhere, TWO), lambda: sink.reply(nowhere, TWO)):
        with pytest.raises(Undelivered) as gone:
            call()
        assert gone.value.trouble is Trouble.GONE


@pytest.mark.parametrize("name", ["slack", "webhook"])
@pytest.mark.parametrize(
    ("mode", "trouble"),
    [
        (Mode.RATE_LIMITED, Trouble.RATE_LIMITED),
        (Mode.RATE_LIMITED_BARE, Trouble.RATE_LIMITED),
        (Mode.SERVER_ERROR, Trouble.UNCERTAIN),
        (Mode.HTML, Trouble.UNCERTAIN),
        (Mode.DROP_BEFORE, Trouble.UNCERTAIN),
        (Mode.DROP_AFTER, Trouble.UNCERTAIN),
        (Mode.SLOW, Trouble.UNCERTAIN),
        (Mode.INVALID_AUTH, Trouble.AUTH),
        ("channel_is_archived", Trouble.CHANNEL),
        ("invalid_blocks", Trouble.TOO_BIG),
        ("something_new", Trouble.REFUSED),
    ],
    ids=str,
)
def test_slack_trouble_is_named_and_never_logged_as_an_error(make, slack, name, mode, trouble, caplog):
    caplog.set_level(logging.DEBUG)
    slack.slow_for = 1.5
    slack.script("*", mode)
    with pytest.raises(Undelivered) as error:
        make(name).post(ONE)
    assert error.value.trouble is trouble
    assert error.value.reason
    assert "<html" not in error.value.reason.lower()
    # Sentry makes an event of each ERROR record, and a token in the log is a leak.
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert "xoxb-secret" not in caplog.text
    assert slack.webhook_url not in caplog.text


@pytest.mark.parametrize("name", ["slack", "webhook"])
def test_a_server_that_does_not_listen_has_certainly_not_taken_it(name):
    nowhere = "http://127.0.0.1:1/api"
    given = {"token": "x", "channel": "#a", "base_url": nowhere} if name == "slack" else {"webhook_url": nowhere}
    with pytest.raises(Undelivered) as error:
        build_sink(SlackSettings(**given)).post(ONE)
    assert error.value.trouble is Trouble.UNAVAILABLE


@pytest.mark.parametrize(("mode", "low", "high"), [(Mode.RATE_LIMITED, 40, 40), (Mode.RATE_LIMITED_DATE, 37, 40)])
def test_retry_after_is_seconds_or_a_date(make, slack, mode, low, high):
    slack.retry_after = 40
    slack.script("*", mode)
    with pytest.raises(Undelivered) as error:
        make("slack").post(ONE)
    assert low <= error.value.retry_after <= high


def test_slack_gets_text_blocks_and_the_uid(make, slack):
    sink = make("slack")
    posted = sink.post(ONE)
    sink.edit(posted, Message("now", "now <x>", (), ""))
    sink.reply(posted, TWO, broadcast=True)
    message = slack.messages[posted.ts]
    assert message.edits == [{"text": "one line", "blocks": list(BLOCKS)}]
    assert (message.text, message.blocks) == ("now &lt;x&gt;", [])
    assert message.metadata["event_payload"] == {"post_uid": "uid-1"}
    assert message.replies[0].broadcast


def test_plain_text_that_is_too_long_is_the_one_line(make, slack):
    make("slack").post(Message("short", "x\n" * 3000))
    assert slack.in_channel("#alerts")[0].text == "short"


def test_a_search_reads_many_pages_and_then_gives_up(make, slack):
    sink, since = make("slack"), clock.now() - timedelta(minutes=1)
    sink.post(ONE)
    for number in range(450):
        slack._post({"channel": "#alerts", "text": f"chatter {number}"})
    assert sink.find("uid-1", since=since) is not None
    for number in range(1700):
        slack._post({"channel": "#alerts", "text": f"chatter {number}"})
    with pytest.raises(Undelivered) as error:
        sink.find("uid-1", since=since)
    assert error.value.trouble is Trouble.REFUSED


def test_a_channel_by_name_is_looked_up_after_a_restart(make, slack):
    posted = make("slack").post(ONE)
    fresh = make("slack")
    assert fresh.find("uid-1", since=clock.now() - timedelta(minutes=1)) == posted
    with pytest.raises(Undelivered, match="channel_not_found"):
        fresh.find("uid-1", since=clock.now(), channel="#nowhere")
    assert slack.calls.count("conversations.list") == 2


def test_the_log_holds_the_whole_alert_in_one_warning(caplog):
    LogSink().post(ONE)
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == (LOGGER_NAME, logging.WARNING, ONE.plain)


def test_memory_fails_as_told_and_can_be_like_a_webhook():
    sink = MemorySink(can_edit=False, can_find=False, trouble=[Undelivered(Trouble.AUTH, "x")])
    with pytest.raises(Undelivered, match="x"):
        sink.check()
    posted = sink.post(ONE)
    for call in (lambda: sink.edit(posted, TWO), lambda: sink.find("uid-1", since=clock.now())):
        with pytest.raises(Undelivered) as error:
            call()
        assert error.value.trouble is Trouble.REFUSED


def test_the_settings_choose_the_sink():
    assert isinstance(build_sink(SlackSettings()), LogSink)
    hook = SecretStr("https://hooks.slack.com/services/x")
    assert isinstance(build_sink(SlackSettings(webhook_url=hook)), SlackWebhookSink)
    both = build_sink(SlackSettings(token=SecretStr("t"), channel="#a", webhook_url=hook))
    assert isinstance(both, SlackSink)
    assert both._client.base_url.endswith("slack.com/api/")
