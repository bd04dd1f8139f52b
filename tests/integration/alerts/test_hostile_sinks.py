"""Hostile text in a dead letter, through the whole way (letter, archive, alert) to each sink: it arrives tame."""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from celery_guardrails import clock
from celery_guardrails.alerts.service import AlertService
from celery_guardrails.alerts.sinks.apprise import AppriseSink
from celery_guardrails.alerts.sinks.build import build_sink
from celery_guardrails.alerts.sinks.log import LogSink
from celery_guardrails.alerts.sinks.own import OwnSink
from celery_guardrails.alerts.sinks.sentry import SentrySink
from celery_guardrails.alerts.sinks.sink import Sink
from celery_guardrails.guardian.ingest import Ingest
from celery_guardrails.letters.codec import encode
from celery_guardrails.letters.record import LetterFailure
from celery_guardrails.policy.failure import Category
from celery_guardrails.settings import AlertSettings, SlackSettings
from celery_guardrails.store.engine import Store
from celery_guardrails.testing import SentryStandIn, SlackStandIn
from tests.sentry_client import sentry_client
from tests.unit.guardian.test_ingest import Delivery
from tests.unit.guardian.test_ingest import letter as letter_of_task
from tests.web import Web

SECRET = "hunter2xyz"
TEXTS = {
    "mentions": "<!channel> <!here> <!everyone> <!subteam^S1> <@U012> @channel @everyone @HERE look",
    "links": "<https://evil.example.com|Approve> [Approve](https://evil.example.com) <javascript:alert(1)>",
    "markup": "*bold* _it_ ~s~ `code` ```block``` > quote & &lt;!channel&gt; </script><img src=x>",
    "control": "\x1b[31mred\x1b]0;title\x07\x9b2J\x00\r\nWARNING forged line\u2028next\u0085",
    "right to left": "\u202egnp.exe\u202c \u2066a\u2069 \u200f\u200e \u061c",
    "long": "x" * 1_000_000,
    "long words": "\U0001f4a3 <&> " * 120_000,
    "secrets": f"password={SECRET} and https://ada:{SECRET}@example.com/ and Authorization: Bearer {SECRET}{SECRET}",
}
MENTION = re.compile(r"<!(?:channel|here|everyone|subteam)|@(?:channel|here|everyone)", re.IGNORECASE)
SINKS = ["slack", "webhook", "apprise", "sentry", "own", "log"]
_MOST = 14_000


class Own:
    def __init__(self) -> None:
        self.alerts: list[Any] = []

    def send(self, alert: Any) -> None:
        self.alerts.append(alert)


@pytest.fixture
def sent(
    request: pytest.FixtureRequest, slack: SlackStandIn, caplog: pytest.LogCaptureFixture
) -> Iterator[tuple[Sink, Callable[[], list[Any]]]]:
    """A sink, and what has arrived there."""
    with Web() as web, SentryStandIn() as sentry:
        own = Own()

        def as_slack(**given: Any) -> Sink:
            return build_sink(SlackSettings(**given, base_url=slack.base_url))

        def whole(message: Any) -> list[Any]:
            return [message.text, message.blocks, message.edits, [whole(reply) for reply in message.replies]]

        def in_slack() -> list[Any]:
            return [whole(message) for message in slack.in_channel()]

        def logged() -> list[Any]:
            return [each.getMessage() for each in caplog.records if each.name == "celery_guardrails.alerts"]

        def events() -> list[Any]:
            parts = ("message", "tags", "extra", "environment", "fingerprint", "level")
            return [{part: event.get(part) for part in parts} for event in sentry.events]

        made: dict[str, tuple[Callable[[], Sink], Callable[[], list[Any]]]] = {
            "slack": (lambda: as_slack(token="x", channel="#alerts"), in_slack),
            "webhook": (
                lambda: as_slack(webhook_url=slack.webhook_url),
                lambda: [whole(m) for m in slack.in_channel()],
            ),
            "apprise": (lambda: AppriseSink("apprise json", web.apprise_url), lambda: web.posted),
            "sentry": (SentrySink, events),
            "own": (lambda: OwnSink("shop.Own", own), lambda: [str(each) for each in own.alerts]),
            "log": (LogSink, logged),
        }
        sink, arrived = made[request.param]
        with sentry_client(sentry.dsn):
            yield sink(), arrived


def hostile(number: int, text: str) -> Delivery:
    """A letter that has the text everywhere; a secret only where work has texts, and not in names from its code."""
    some = text[:2000]
    name = "plain" if SECRET in text else some
    failure = LetterFailure(type=name[:400], message=text, category=Category.BUG, fingerprint=f"v1:{number}")
    found = letter_of_task(number, "shop.mail").model_copy(
        update={
            "failure": failure, "environment": name, "queue": name, "owner": name, "runbook": some, "version": some,
            "affected": {"customer": some}, "correlation": {"order": some}, "died_at": clock.now(),
        }
    )  # fmt: skip
    return Delivery(encode(found))


def strings(found: Any) -> Iterator[str]:
    """Every text in what has arrived."""
    if isinstance(found, str):
        yield found
    elif isinstance(found, dict) and found.get("type") == "plain_text":
        return  # Slack shows it as it is: no mention, no link
    elif isinstance(found, dict):
        for key, value in found.items():
            yield from (*strings(key), *strings(value))
    elif isinstance(found, (list, tuple)):
        for each in found:
            yield from strings(each)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("sent", SINKS, indirect=True, ids=SINKS)
def test_hostile_text_arrives_tame(
    sent: tuple[Sink, Callable[[], list[Any]]],
    text: str,
    store: Store,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    caplog.set_level(logging.INFO)
    (sink, arrived), name = sent, request.node.callspec.params["sent"]
    ingest, service, now = Ingest(store, [], "test"), AlertService(store, sink, AlertSettings()), clock.now()
    for first, last, after in ((0, 3, 0), (3, 40, 6 * 60), (40, 40, 22 * 60)):  # opened, worse, resolved
        if first < last:
            report = ingest.run_once([hostile(number, text) for number in range(first, last)], clock.now())
            assert report.archived == last - first
        for further in range(5):
            service.run_once(now + timedelta(seconds=after + 2 * further), flush=True)
    found = arrived()
    assert found
    if name == "slack":
        assert len(found[0][-1]) == 2, "the thread has a reply that it got worse, and one that it is resolved"
    for message in found:
        assert len(json.dumps(message, ensure_ascii=False)) < _MOST * (1 + 4 * (name == "slack"))
    for each in strings(found):
        assert SECRET not in each
        odd = {char for char in each if unicodedata.category(char) in ("Cc", "Cf")}
        assert odd <= {"\n", "\u2060"}, odd
        assert "\nWARNING forged" not in each
        if name != "sentry" and name != "log":  # neither calls anybody
            assert not MENTION.search(each)
        if name in ("slack", "webhook"):
            assert "<" not in each, "it would be a mention or a link"
