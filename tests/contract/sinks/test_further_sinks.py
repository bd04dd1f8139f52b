"""What each of the further sinks does with an alert, and with trouble: apprise, Sentry, a sink of the user's own."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timezone

import pytest
import sentry_sdk

from celery_guardrails.alerts.sinks.alert import Alert
from celery_guardrails.alerts.sinks.apprise import AppriseSink
from celery_guardrails.alerts.sinks.own import OwnSink
from celery_guardrails.alerts.sinks.sentry import SentrySink
from celery_guardrails.alerts.sinks.sink import Message
from celery_guardrails.errors import SinkError, Trouble, Undelivered
from celery_guardrails.testing import SentryStandIn
from celery_guardrails.testing.server import Answer
from tests.sentry_client import sentry_client
from tests.web import Web

AT = datetime(2026, 3, 1, tzinfo=timezone.utc)
ALERT = Alert(
    uid="0123456789abcdef0123456789abcdef",
    title="Bill: 2",
    text="Bill: 2\nwhat broke",
    id="70d3b64f",
    notice="opened",
    task="shop.Bill",
    environment="production",
    severity="critical",
    owner="payments",
    runbook="https://wiki.example.com",
    letters=2,
    reasons={"time_limit": 1, "worker_lost": 1},
    first_at=AT,
    last_at=AT,
)
MESSAGE = Message("Bill: 2", "Bill: 2\nwhat broke @everyone", (), ALERT.uid, ALERT)
SECRETS = ("hunter2xyz", "t0ken")


@pytest.fixture
def web():
    with Web() as standing_in:
        yield standing_in


class TestApprise:
    def test_title_and_body_as_plain_text(self, web):
        posted = AppriseSink("apprise json 1a2b3c", web.apprise_url).post(MESSAGE)
        (got,) = web.posted
        assert (got["title"], got["message"]) == ("Bill: 2", "what broke @\u2060everyone")
        assert got["type"] == "failure"
        assert posted.channel == "apprise json 1a2b3c"

    @pytest.mark.parametrize(
        ("answer", "trouble"),
        [
            (Answer(401), Trouble.AUTH),
            (Answer(404), Trouble.AUTH),
            (Answer(429), Trouble.RATE_LIMITED),
            (Answer(400), Trouble.REFUSED),
            (Answer(500), Trouble.UNCERTAIN),
            (Answer(drop=True), Trouble.UNCERTAIN),
            (Answer(after=1.0), Trouble.UNCERTAIN),
        ],
        ids=lambda value: str(getattr(value, "status", value)),
    )
    def test_trouble_is_named_and_no_url_is_logged(self, web, answer, trouble, caplog):
        caplog.set_level(1)
        web.answer_with = answer
        sink = AppriseSink("apprise json", f"{web.apprise_url}?rto=0.3")
        with pytest.raises(Undelivered) as error:
            sink.post(MESSAGE)
        assert error.value.trouble is trouble
        assert not [secret for secret in SECRETS if secret in caplog.text + str(error.value)]
        assert not [each for each in caplog.records if each.levelno >= logging.WARNING]

    def test_a_server_that_does_not_listen(self, caplog):
        caplog.set_level(1)
        with pytest.raises(Undelivered) as error:
            AppriseSink("apprise json", "json://ada:hunter2xyz@127.0.0.1:1/t0ken").post(MESSAGE)
        assert error.value.retryable
        assert not [secret for secret in SECRETS if secret in caplog.text + str(error.value)]

    def test_a_url_that_apprise_does_not_know_is_not_quoted(self, caplog):
        caplog.set_level(1)
        with pytest.raises(ValueError, match="does not know this URL") as error:
            AppriseSink("apprise json", "nosuch://ada:hunter2xyz@example.com/t0ken")
        assert not [secret for secret in SECRETS if secret in caplog.text + str(error.value)]

    def test_what_others_log_through_apprise_is_logged(self, web, caplog):
        AppriseSink("apprise json", web.apprise_url).post(MESSAGE)
        logging.getLogger("apprise").warning("of the application's own")
        assert "of the application's own" in caplog.text


class TestSentry:
    @pytest.fixture
    def sentry(self):
        with SentryStandIn() as standing_in:
            yield standing_in

    def test_one_event_with_facts(self, sentry):
        with sentry_client(sentry.dsn, environment="another"):
            sentry_sdk.add_breadcrumb(message="of another problem")
            SentrySink().post(MESSAGE)
            (event,) = sentry.wait_for(1)
        assert event["level"] == "fatal"
        assert event["environment"] == "production"
        assert event["event_id"] == ALERT.uid
        assert event["message"] == "Bill: 2"
        assert event["fingerprint"] == ["celery-guardrails", "70d3b64f"]
        assert event["tags"] == {
            "guardrails.alert": "70d3b64f",
            "guardrails.task": "shop.Bill",
            "guardrails.reason": "time_limit,worker_lost",
            "guardrails.owner": "payments",
            "guardrails.notice": "opened",
        }
        assert event["extra"]["alert"] == MESSAGE.plain
        assert "of another problem" not in str(event)

    def test_without_sentry_it_refuses_until_somebody_initialises_it(self):
        with sentry_client(""):
            for call in (SentrySink().check, lambda: SentrySink().post(MESSAGE)):
                with pytest.raises(Undelivered) as error:
                    call()
                assert error.value.trouble is Trouble.AUTH

    def test_an_event_that_the_application_drops_is_not_delivered(self, sentry):
        with sentry_client(sentry.dsn, before_send=lambda event, hint: None), pytest.raises(Undelivered) as error:
            SentrySink().post(MESSAGE)
        assert error.value.trouble is Trouble.REFUSED


class Sends:
    def __init__(self, raises=None, waits=None):
        self.alerts, self.raises, self.waits = [], raises, waits

    def send(self, alert):
        self.alerts.append(alert)
        if self.waits:
            self.waits.wait(30)
        if self.raises:
            raise self.raises


class TestOwn:
    def test_it_gets_the_alert(self):
        target = Sends()
        posted = OwnSink("shop.Pager", target).post(MESSAGE)
        assert target.alerts == [ALERT]
        assert posted.channel == "shop.Pager"

    def test_a_test_message_is_an_alert_too(self):
        target = Sends()
        OwnSink("shop.Pager", target).post(Message("it works", "it works"))
        (alert,) = target.alerts
        assert (alert.title, alert.text, alert.notice) == ("it works", "it works", "test")

    @pytest.mark.parametrize(
        ("raised", "trouble", "words"),
        [
            (ValueError("no such pager password=hunter2xyz"), Trouble.UNCERTAIN, "ValueError: no such pager"),
            (SinkError("busy", retry_after=3), Trouble.UNCERTAIN, "SinkError: busy"),
            (SinkError("never", retryable=False), Trouble.REFUSED, "SinkError: never"),
            (Undelivered(Trouble.AUTH, "expired"), Trouble.AUTH, "expired"),
            (SystemExit(3), Trouble.UNCERTAIN, "SystemExit"),
        ],
    )
    def test_whatever_it_raises_is_trouble(self, raised, trouble, words):
        with pytest.raises(Undelivered) as error:
            OwnSink("shop.Pager", Sends(raised)).post(MESSAGE)
        assert error.value.trouble is trouble
        assert error.value.reason.startswith(words)
        assert "hunter2xyz" not in str(error.value)

    def test_one_that_hangs_holds_up_nobody_and_costs_one_thread(self):
        release = threading.Event()
        target = Sends(waits=release)
        sink = OwnSink("shop.Pager", target, seconds=0.05)
        reasons = []
        for _ in range(20):
            with pytest.raises(Undelivered) as error:
                sink.post(MESSAGE)
            reasons.append(error.value.trouble)
        assert reasons == [Trouble.UNCERTAIN] + [Trouble.UNAVAILABLE] * 19
        release.set()
        assert len(target.alerts) == 1
