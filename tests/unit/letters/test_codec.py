from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.letters.codec import NewerSchema, decode, encode, json_safe, unreadable
from celery_guardrails.letters.record import Letter, LetterFailure, OriginalMessage, letter_id
from celery_guardrails.letters.work import Work
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category

NOW = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)


def letter(body: bytes = b"[[],{},{}]", **changes: object) -> Letter:
    fields: dict[str, object] = {
        "id": letter_id(Work("t1", "", "", ""), 3, 0, Reason.ATTEMPTS_EXHAUSTED),
        "task": "shop.mail",
        "task_id": "t1",
        "reason": Reason.ATTEMPTS_EXHAUSTED,
        "failure": LetterFailure(
            type="TimeoutError", message="late", category=Category.TIMEOUT, fingerprint="v1:1", traceback="T"
        ),
        "first_failed_at": NOW,
        "died_at": NOW,
        "message": OriginalMessage.model_construct(
            body=body, content_type="application/json", content_encoding="utf-8", headers={"id": "t1"}, properties={}
        ),
    }
    return Letter.model_construct(**{**fields, **changes})  # type: ignore[arg-type]


@given(st.binary(max_size=2000))
def test_the_original_bytes_survive(body: bytes) -> None:
    assert decode(encode(letter(body))).message.body == body


def test_a_body_over_a_mebibyte_survives() -> None:
    body = bytes(range(256)) * 5000
    assert decode(encode(letter(body))).message.body == body


def test_a_newer_schema_is_refused() -> None:
    raw = json.loads(encode(letter()))
    raw["v"] = 2
    with pytest.raises(NewerSchema, match=r"version 2.*upgrade"):
        decode(json.dumps(raw))


def test_unknown_fields_of_the_same_version_are_ignored() -> None:
    raw = json.loads(encode(letter()))
    raw["added_later"] = 1
    assert decode(json.dumps(raw)).task == "shop.mail"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"{}", "no schema version"),
        (b'{"v": true}', "no schema version"),
        (b'{"v": "1"}', "no schema version"),
        (b'{"v": 1}', "id: Field required"),
    ],
)
def test_what_is_not_a_letter_says_why(body: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        decode(body)


@given(st.binary(max_size=3000))
def test_what_is_not_a_letter_becomes_one(body: bytes) -> None:
    made = unreadable(body, "not JSON", "celery.dead_letter", NOW, headers={"a": b"\xff", "b": {1: {2}}})
    again = decode(encode(made))
    assert again.message.body == body
    assert again.reason is Reason.UNDECODABLE
    assert made.id == unreadable(body, "other", "q", NOW).id


def test_json_safe_handles_what_brokers_hand_out() -> None:
    class Odd:
        def __str__(self) -> str:
            return "odd"

    deep: dict[str, object] = {}
    deep["self"] = deep
    value = {"t": NOW, "b": b"\xff", "n": float("nan"), "o": Odd(), "s": {1}, "m": memoryview(b"x"), "d": deep}
    json.dumps(json_safe(value), allow_nan=False)


def test_a_letter_is_written_whatever_text_a_message_held() -> None:
    fields = {**letter().model_dump(), "root_id": 7, "group_id": "\ud800", "priority": "high", "queue": "\ud800"}
    again = decode(encode(Letter(**fields)))
    assert (again.root_id, again.group_id, again.priority, again.queue) == ("7", "?", None, "?")
    assert again.message.body == b"[[],{},{}]"


@pytest.mark.parametrize("form", [b'"\\ud800"', b'"\xed\xa0\x80"'])
def test_what_no_store_holds_is_replaced_when_a_letter_is_read(form: bytes) -> None:
    body = encode(letter(queue="mail", correlation={"order": "MARK"})).replace(b'"MARK"', form)
    assert decode(body).correlation == {"order": "?"}
    assert decode(body).message.body == b"[[],{},{}]"


def raw(**changes: Any) -> dict[str, Any]:
    return {**json.loads(encode(letter())), **changes}


@pytest.mark.parametrize("levels", [65, 200, 500, 930, 960, 999, 1_500, 20_000])
@pytest.mark.parametrize("form", ["[%s]", '{"a":%s}'])
def test_what_nests_deep_is_no_letter(levels: int, form: str) -> None:
    """However deep the caller is in its own calls: some of these end json, some pydantic, some the next to read it."""
    opening, closing = form.split("%s")
    deep = opening * levels + "1" + closing * levels
    body = json.dumps(raw(policy="MARK")).replace('"MARK"', deep)
    with pytest.raises(ValueError, match=r"deep|not JSON"):
        decode(body)


def test_what_a_worker_writes_nests_less() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"a": deep}
    made = letter()
    message = made.message.model_copy(update={"headers": json_safe(deep), "properties": json_safe(deep)})
    assert decode(encode(made.model_copy(update={"message": message}))).message == message


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-11-01T12:00:00", NOW),
        ("2026-11-01T14:00:00+02:00", NOW),
        ("0001-01-01T00:00:00+23:59", datetime(1970, 1, 1, tzinfo=timezone.utc)),
        ("9999-12-31T23:59:59-23:59", datetime(3000, 1, 1, tzinfo=timezone.utc)),
        ("9999-12-31T23:59:59", datetime(3000, 1, 1, tzinfo=timezone.utc)),
        ("1969-12-31T23:59:59Z", datetime(1970, 1, 1, tzinfo=timezone.utc)),
    ],
)
def test_every_instant_is_aware_and_in_utc(written: str, read: datetime) -> None:
    attempt = {"number": 1, "started_at": written, "ended_at": written, "error": "E", "message": ""}
    found = decode(json.dumps(raw(died_at=written, first_failed_at=written, published_at=written, attempts=[attempt])))
    instants = [found.died_at, found.first_failed_at, found.published_at]
    instants += [found.attempts[0].started_at, found.attempts[0].ended_at]
    assert instants == [read] * 5
    assert {each.utcoffset() for each in instants if each} == {timedelta(0)}


@pytest.mark.parametrize("delay", ["NaN", "Infinity", "-Infinity", "-1", "1e300", "true", '"5"', "[]", "null"])
def test_a_delay_that_nobody_can_have_waited_is_not_known(delay: str) -> None:
    attempt = {"number": 1, "ended_at": NOW.isoformat(), "error": "E", "message": "", "delay": "MARK"}
    body = json.dumps(raw(attempts=[attempt])).replace('"MARK"', delay)
    assert decode(body).attempts[0].delay is None


def test_a_letter_keeps_no_more_attempts_than_a_worker_lists() -> None:
    attempts = [{"number": n, "ended_at": NOW.isoformat(), "error": "E", "message": ""} for n in range(1, 50_001)]
    found = decode(json.dumps(raw(attempts=attempts)))
    assert [attempt.number for attempt in found.attempts] == [1, 2, *range(49_992, 50_001)]
    assert len(decode(json.dumps(raw(attempts=attempts[:11]))).attempts) == 11
