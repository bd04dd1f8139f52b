"""Telling the sender's own `argsrepr` and `kwargsrepr` from those that Celery writes into every message."""

from __future__ import annotations

import decimal
import uuid
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery
from kombu.utils import json

from celery_guardrails.letters.header import HEADER
from celery_guardrails.letters.sender_text import SenderText
from celery_guardrails.worker.failure.sent_repr import described_by, kept_reprs, sender_text

NOW = datetime(2026, 11, 1, tzinfo=timezone.utc)


def received(app: Celery, args: Any, kwargs: Any, **options: Any) -> tuple[dict[str, Any], Any, Any]:
    """The headers and arguments that a worker gets of a message that Celery makes of these."""
    message = app.amqp.as_task_v2("1", "unit.task", args, kwargs, **options)
    got_args, got_kwargs, _ = json.loads(json.dumps(message.body))
    return {**message.headers}, got_args, got_kwargs


@pytest.mark.parametrize(
    "value",
    [
        (), ("ada",), ("ada", 1, None, True, 2.5), (["a"], {"b": (1, (2,))}), ("(x,)", "[y]"), ("ünï'\"code\n",),
        (NOW, uuid.UUID(int=7), decimal.Decimal("1.5")), ({"deep": {"deeper": {"deepest": {"more": [1]}}}},),
        ("x" * 5000,), tuple(range(900)),
    ],
)  # fmt: skip
def test_what_celery_writes_is_nobodys_own(app: Celery, value: Any) -> None:
    assert sender_text(app, *received(app, value, {"value": value})) == SenderText()


def test_what_differs_is_the_senders(app: Celery) -> None:
    headers, args, kwargs = received(app, ("ada", "x"), {"y": 1}, argsrepr="('ada', '****')")
    assert sender_text(app, headers, args, kwargs) == SenderText(args="('ada', '****')")
    headers, args, kwargs = received(app, ("ada", "x"), {"y": 1}, kwargsrepr="{'y': '*'}")
    assert sender_text(app, headers, args, kwargs) == SenderText(kwargs="{'y': '*'}")


def test_our_header_says_so_also_where_celery_would_write_the_same(app: Celery) -> None:
    headers, args, kwargs = received(app, ("ada",), {})
    headers[HEADER] = {"v": 1, "described": ["args"]}
    assert sender_text(app, headers, args, kwargs) == SenderText(args="('ada',)")
    del headers["argsrepr"]  # eager mode
    assert sender_text(app, headers, args, kwargs) == SenderText(args="(hidden by the sender)")


@pytest.mark.parametrize("text", [None, "", 7, ["x"], b"x"])
def test_no_text_is_nobodys_own(app: Celery, text: Any) -> None:
    assert sender_text(app, {"argsrepr": text, "kwargsrepr": text}, ("ada",), {}) == SenderText()


def test_an_application_that_cuts_its_texts_shorter(app: Celery) -> None:
    app.amqp.argsrepr_maxsize = 12
    assert sender_text(app, *received(app, ("a long name", "x"), {})) == SenderText()


def test_which_arguments_a_publish_describes() -> None:
    assert described_by({"argsrepr": "x", "kwargsrepr": None}) == ["args"]
    assert described_by({"argsrepr": "", "kwargsrepr": "{}"}) == ["args", "kwargs"]


def test_a_retry_keeps_what_is_hidden(app: Celery, failing: Any) -> None:
    headers, args, kwargs = received(app, ("ada", "x"), {"y": 1}, argsrepr="('ada', '****')", kwargsrepr="{'y': '*'}")
    failing.push_request(**{**headers, "args": args, "kwargs": kwargs})
    try:
        request = failing.request
        both = {"argsrepr": "('ada', '****')", "kwargsrepr": "{'y': '*'}"}
        assert kept_reprs(app, request, None, None) == both
        assert kept_reprs(app, request, ("ada", "x"), {"y": 1}) == both
        changed = kept_reprs(app, request, ("bob", "z"), None)
        assert changed == {**both, "argsrepr": "(changed by a retry, hidden by the sender)"}
        assert kept_reprs(app, request, (), {"y": 1}) == {**both, "argsrepr": changed["argsrepr"]}
        signature = failing.signature_from_request(args=("bob", "z"), countdown=3)
        assert signature.options["argsrepr"] == changed["argsrepr"]
        assert signature.options["kwargsrepr"] == both["kwargsrepr"]
        assert failing.signature_from_request(argsrepr="mine").options["argsrepr"] == "mine"
    finally:
        failing.pop_request()
    failing.push_request(**{**received(app, ("ada",), {})[0], "args": ["ada"], "kwargs": {}})
    try:
        assert "argsrepr" not in failing.signature_from_request(countdown=3).options
        assert kept_reprs(app, failing.request, ("bob",), {"y": 1}) == {}
    finally:
        failing.pop_request()


def test_what_a_retry_moves_to_other_arguments_stays_hidden(app: Celery, failing: Any) -> None:
    headers, args, kwargs = received(app, (), {"pin": 4711}, kwargsrepr="{'pin': '*'}")
    failing.push_request(**{**headers, "args": args, "kwargs": kwargs})
    try:
        kept = kept_reprs(app, failing.request, (4711,), {})
        assert kept == dict.fromkeys(("argsrepr", "kwargsrepr"), "(changed by a retry, hidden by the sender)")
    finally:
        failing.pop_request()
