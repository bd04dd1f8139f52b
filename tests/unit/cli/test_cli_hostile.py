"""Commands show whatever is in the archive, and on whatever there is to show it on."""

from __future__ import annotations

import io
import json
import math
import sys
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery.bin.base import CLIContext
from sqlalchemy import update

from celery_guardrails.cli import guardrails
from celery_guardrails.letters.codec import encode
from celery_guardrails.store import alert
from celery_guardrails.store.table import death
from tests.unit.cli.conftest import Shop
from tests.unit.cli.deaths import DIED, dead

READS = (("dlq", "list"), ("dlq", "groups"), ("dlq", "stats"), ("alerts", "list"))


def archived(shop: Shop, **changes: Any) -> str:
    """A letter whose payload in the archive says something else than it did when it was archived."""
    whole = dead(1)
    store = shop.archive(whole)
    payload = json.dumps({**json.loads(encode(whole)), **changes}).encode()
    with store.begin() as conn:
        conn.execute(update(death).values(payload=payload))
    return whole.id


def attempt(**changes: Any) -> dict[str, Any]:
    return {"number": 1, "started_at": None, "ended_at": DIED.isoformat(), "error": "E", "message": "m", **changes}


ODD: dict[str, dict[str, Any]] = {
    "numbers that are none": {
        "attempts": [attempt(delay=each) for each in (math.nan, math.inf, -math.inf, -5, 1e300)],
        "policy": {"a": math.nan, "b": [math.inf, {"c": -math.inf}]},
    },
    "naive beside aware": {
        "attempts": [attempt(started_at="2026-03-01T12:00:00", ended_at="2026-03-01T12:00:01+02:00")],
        "first_failed_at": "2026-03-01T12:00:00",
    },
    "the calendar's ends": {
        "attempts": [attempt(started_at="0001-01-01T00:00:00+23:59", ended_at="9999-12-31T23:59:59-23:59")]
    },
    "half characters": {
        "attempts": [attempt(worker="w\ud800", error="a.\udfff")],
        "correlation": {"a\ud800": "\udfff"},
        "explanation": "\ud800", "runbook": "\ud800", "policy": {"\ud800": "\udfff"},
    },
    "no letter at all": {"failure": 7},
    "nested": {"policy": json.loads("[" * 300 + "]" * 300)},
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_a_letter_is_shown_whatever_it_says(shop: Shop, case: str) -> None:
    letter_id = archived(shop, **ODD[case])
    assert shop.run("dlq", "show", letter_id).exit_code == 0
    result = shop.run("dlq", "show", letter_id, "--json")
    assert result.exit_code == 0, result.output
    result.stdout.encode("ascii")
    found = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert "\\ud" not in result.stdout, "half a character is JSON to some readers alone"
    assert found["id"] == letter_id


@pytest.mark.parametrize("limit", ["0", "-1", "2147483648", str(2**63), str(2**64), "9" * 40, "nan", "1e3", ""])
@pytest.mark.parametrize("words", [("dlq", "list"), ("dlq", "groups"), ("retries", "list")])
def test_a_limit_that_no_database_counts_is_wrong_usage(shop: Shop, words: tuple[str, ...], limit: str) -> None:
    shop.archive(dead(1))
    result = shop.run(*words, "--limit", limit)
    assert result.exit_code == 2, result.output
    assert "--limit" in result.stderr


@pytest.mark.parametrize("words", [("dlq", "list"), ("dlq", "groups")])
def test_a_limit_may_be_as_large_as_a_database_counts(shop: Shop, words: tuple[str, ...]) -> None:
    shop.archive(dead(1), dead(2))
    assert shop.json(*words, "--limit", "2147483647")


@pytest.mark.parametrize("given", ["a\udcff", "\ud800", "a\0b", "x" * 5_000, "*" * 50, "\U0001f4a3" * 500])
def test_what_is_typed_may_hold_what_no_database_does(shop: Shop, given: str) -> None:
    shop.archive(dead(1))
    for words in (
        ("--task", given),
        (f"task:{given}",),
        (f'text:"{given}"',),
        (f"id:{given}",),
        (f"arg.{'x'}:{given}",),
    ):
        assert shop.run("dlq", "list", "--json", *words).exit_code in (0, 1, 2)
    assert shop.run("dlq", "show", given).exit_code == 1
    reason = shop.run("dlq", "discard", dead(1).id, "--reason", given, "--by", given, "--json")
    assert reason.exit_code == 0, reason.output
    assert shop.run("dlq", "show", dead(1).id).exit_code == 0
    json.loads(shop.run("dlq", "show", dead(1).id, "--json").stdout)


def test_an_alert_that_cannot_be_read_hides_no_other(shop: Shop) -> None:
    store = shop.archive(dead(1))
    with store.begin() as conn:
        row = alert.GroupRow("k", "test", "shop.broken", "open", 1, 0, {"key": 7})
        alert.save_group(conn, row, datetime.now(timezone.utc) - timedelta(minutes=1))
    assert shop.json("alerts", "list") == []
    listed = shop.run("alerts", "list")
    assert listed.exit_code == 0
    assert "shop.broken" in listed.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_a_terminal_that_does_not_have_the_characters(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """One that is not UTF-8; and half a character is something that not even UTF-8 has."""
    odd = dead(1, task="shop.\u00fc\U0001f4a3", explanation="\u2026 \ud800", worker="\u4e2d\u6587")
    shop.archive(odd)
    for words in (*READS, ("dlq", "show", odd.id)):
        for arguments in (words, (*words, "--json")):
            out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
            monkeypatch.setattr(sys, "stdout", out)
            context = CLIContext(app=shop.app, no_color=True, workdir=None)
            assert guardrails.main(list(arguments), obj=context, standalone_mode=False) in (None, 0)
            out.flush()
            said = out.buffer
            assert isinstance(said, io.BytesIO)
            assert said.getvalue() or words == ("alerts", "list")
