"""The stand-ins: they are shipped, so they are tested."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import zlib

import pytest
import sentry_sdk

import celery_guardrails.testing
from celery_guardrails.testing import Mode, SentryStandIn, SlackStandIn
from celery_guardrails.testing.sentry import parse_envelope
from celery_guardrails.testing.slack_limits import faults_of


def ask(url, data=None, headers=None, form=None):
    body = json.dumps(data).encode() if data is not None else (form.encode() if form is not None else None)
    kind = "application/x-www-form-urlencoded" if form is not None else "application/json"
    request = urllib.request.Request(url, body, {"Content-Type": kind, "Authorization": "Bearer x", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def slack():
    with SlackStandIn() as standing_in:
        yield standing_in


def test_it_refuses_what_slack_refuses(slack):
    def error(method, data, **headers):
        return json.loads(ask(slack.base_url + method, data, headers)[1]).get("error")

    assert error("chat.postMessage", {"channel": "#a"}) == "no_text"
    assert error("chat.postMessage", {"channel": "#a", "text": "x"}, Authorization="") == "not_authed"
    assert error("chat.postMessage", {"channel": "#a", "blocks": [{"type": "table"}]}) == "invalid_blocks"
    assert error("chat.postMessage", {"channel": "#a", "text": "x", "thread_ts": "1"}) == "thread_not_found"
    assert error("chat.update", {"channel": "#a", "ts": "1"}) == "message_not_found"
    assert error("conversations.history", {"channel": "#a"}) == "channel_not_found"
    assert error("conversations.replies", {"channel": "#a", "ts": "1"}) == "thread_not_found"
    assert error("chat.delete", {}) == "unknown_method"
    posted = json.loads(ask(slack.base_url + "chat.postMessage", {"channel": "#a", "text": "x"})[1])
    bad = {"channel": posted["channel"], "ts": posted["ts"], "blocks": [{"type": "header"}]}
    assert error("chat.update", bad) == "invalid_blocks"
    assert ask(slack.webhook_url, {}) == (400, "no_text")
    assert ask(slack.webhook_url, {"blocks": [1]}) == (400, "invalid_blocks")
    slack.script("webhook", Mode.INVALID_AUTH)
    assert ask(slack.webhook_url, {"text": "x"}) == (403, "invalid_auth")


def test_it_reads_forms_as_well_and_shows_what_it_has(slack):
    ask(slack.base_url + "chat.postMessage", form="channel=%23a&text=hi&metadata=%7B%22a%22%3A1%7D")
    ask(slack.webhook_url, {"text": "hook"})
    messages = json.loads(ask(f"{slack.address}/messages")[1])
    assert [(m["text"], m["metadata"], m["webhook"]) for m in messages] == [("hi", {"a": 1}, False), ("hook", {}, True)]
    slack.delete(messages[0]["ts"])
    assert [message.text for message in slack.in_channel()] == ["hook"]


LONG = {"type": "mrkdwn", "text": "x" * 3001}


@pytest.mark.parametrize(
    "blocks",
    [
        [{"type": "divider"}] * 51,
        ["text"],
        [{"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}],
        [{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}],
        [{"type": "section"}],
        [{"type": "section", "text": LONG}],
        [{"type": "section", "text": {"type": "mrkdwn", "text": ""}}],
        [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x"}] * 11}],
        [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x" * 2001}]}],
        [{"type": "context", "elements": []}],
        [{"type": "context", "elements": [LONG]}],
        [{"type": "actions", "elements": [{"text": {"type": "plain_text", "text": "x"}, "url": "u" * 3001}]}],
    ],
)
def test_blocks_over_the_limits(blocks):
    assert faults_of(blocks)


def test_blocks_within_the_limits():
    assert faults_of([{"type": "divider"}] * 50) == []


def test_as_a_process_it_shows_messages_as_a_person_sees_them():
    command = [sys.executable, "-W", "error", "-m", "celery_guardrails.testing.slack", "--show"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        base_url = process.stdout.readline().strip().partition("=")[2]
        hook = process.stdout.readline().strip().partition("=")[2]
        blocks = [
            {"type": "header", "text": {"type": "plain_text", "text": "Two &lt; three"}},
            {"type": "section", "fields": [{"type": "mrkdwn", "text": "*Owner*\ngrowth"}]},
        ]
        answer = json.loads(ask(base_url + "chat.postMessage", {"channel": "#a", "text": "t", "blocks": blocks})[1])
        ask(base_url + "chat.postMessage", {"channel": "#a", "text": "in *thread*", "thread_ts": answer["ts"]})
        ask(hook, {"text": "hook"})
        lines = [process.stdout.readline().rstrip() for _ in range(10)]
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert lines[0].endswith("message posted")
    assert lines[1:4] == ["│ Two < three", "│ Owner: growth", "└─"]
    assert lines[4].endswith("message replied")
    assert lines[5] == "│ in thread"
    assert (process.returncode, rest) == (0, "")


def test_sentry_keeps_what_the_real_sdk_sends():
    with SentryStandIn() as sentry:
        client = sentry_sdk.Client(dsn=sentry.dsn, default_integrations=False)
        client.capture_event({"message": "broken", "tags": {"task": "shop.A"}})
        client.close(timeout=5)
        (event,) = sentry.wait_for(1)
        assert (event["message"], event["tags"]) == ("broken", {"task": "shop.A"})
        assert json.loads(ask(f"{sentry.address}/events")[1])[0]["message"] == "broken"
        assert sentry.wait_for(2, timeout=0.01) == [event]


def test_sentry_reads_envelopes_of_all_kinds():
    envelope = (
        b'{}\n{"type":"event"}\n{"a":1}\n{"type":"attachment","length":3}\n\x00\n\x01\n\n{"type":"event"}\n{"b":2}'
    )
    assert parse_envelope(envelope) == [("event", {"a": 1}), ("attachment", b"\x00\n\x01"), ("event", {"b": 2})]
    with SentryStandIn() as sentry:
        for encoding, data in (("gzip", gzip.compress(envelope)), ("deflate", zlib.compress(envelope)), ("", envelope)):
            _raw(sentry, data, encoding)
        assert len(sentry.events) == 6
        assert _raw(sentry, b"nonsense", "") == 400
        assert _raw(sentry, envelope, "br") == 400
        assert _raw(sentry, b"not gzip", "gzip") == 400


def _raw(sentry, data, encoding):
    request = urllib.request.Request(f"{sentry.address}/api/1/envelope/", data, {"Content-Encoding": encoding})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_names_come_from_the_package():
    assert celery_guardrails.testing.SlackStandIn is SlackStandIn
    with pytest.raises(AttributeError, match="Nothing"):
        celery_guardrails.testing.Nothing  # noqa: B018
