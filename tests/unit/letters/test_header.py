from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.letters import header as module
from celery_guardrails.letters.claim import draw_token
from celery_guardrails.letters.header import HEADER, MAX_BYTES, Header, read_header, write_header
from celery_guardrails.policy.failure import Attempt, Category

T0 = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)


LETTER = "1eee1eee-0000-4000-8000-000000000000"
SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def attempt(number: int, message: str = "boom", error: str = "TimeoutError", generation: int = 0) -> Attempt:
    return Attempt(
        number=number,
        started_at=T0 + timedelta(seconds=number),
        ended_at=T0 + timedelta(seconds=number + 1),
        error=error,
        message=message,
        category=Category.TIMEOUT,
        fingerprint="v1:abc",
        worker="celery@host",
        delay=1.5,
        generation=generation,
    )


def test_round_trip_keeps_everything() -> None:
    header = Header(
        T0, T0 + timedelta(hours=1), (attempt(1), attempt(2)), 3, LETTER, 2, claim_token="s3cret", span=SPAN
    )
    headers: dict[str, object] = {}
    write_header(headers, header)
    assert read_header(headers) == header
    assert json.loads(json.dumps(headers[HEADER])) == headers[HEADER]


@pytest.mark.parametrize("span", [7, None, "", SPAN + "0", SPAN.upper(), "x" * 55, [SPAN], {"span": SPAN}])
def test_what_is_no_span_is_not_taken_for_one(span: object) -> None:
    assert read_header({HEADER: {"v": 1, "span": span}}) == Header()


def test_a_further_attempt_keeps_the_span() -> None:
    assert Header(T0, span=SPAN).with_attempt(attempt(1)).span == SPAN


def test_of_many_attempts_the_first_two_and_the_last_eight_stay() -> None:
    header = Header(T0)
    for number in range(1, 31):
        header = header.with_attempt(attempt(number))
    assert [kept.number for kept in header.attempts] == [1, 2, 23, 24, 25, 26, 27, 28, 29, 30]


@given(
    st.lists(
        st.builds(attempt, st.integers(1, 10**6), st.text(max_size=3000), st.text(max_size=500), st.integers(0, 50)),
        max_size=10,
    )
)
def test_never_over_four_kibibytes(attempts: list[Attempt]) -> None:
    encoded = Header(T0, T0, tuple(attempts), 2, LETTER, 1, claim_token=draw_token(), span=SPAN).encode()
    assert len(json.dumps(encoded)) <= MAX_BYTES
    found = read_header({HEADER: encoded})
    assert (found.dead_letter_id, found.claim_token) == (LETTER, encoded["claim_token"])


def test_one_more_attempt_changes_nothing_else() -> None:
    header = Header(T0, T0, (attempt(1),), 2, LETTER, 1, "work", True, T0, ("args",), draw_token(), SPAN, "key", 3)
    assert all(getattr(header, each.name) != getattr(Header(), each.name) for each in fields(Header))
    # but how often it was put off, which counts for one attempt
    assert header.with_attempt(attempt(2)) == replace(header, attempts=(attempt(1), attempt(2)), waits=0)


def test_an_eager_tasks_header_stands_only_in_the_nested_headers() -> None:
    header = Header(T0, work="work", key="order-4711")
    assert read_header({"guardrails": None, "headers": {HEADER: header.encode()}}) == header


def test_sentrys_nested_headers_are_written_and_read_too() -> None:
    headers: dict[str, object] = {"headers": {"sentry-trace": "1"}}
    write_header(headers, Header(T0, attempts=(attempt(1),)))
    assert headers["headers"] == {"sentry-trace": "1", HEADER: headers[HEADER]}
    del headers[HEADER]
    assert len(read_header(headers).attempts) == 1


def test_the_longer_history_wins() -> None:
    short, long = Header(T0).encode(), Header(T0, attempts=(attempt(1),)).encode()
    assert len(read_header({HEADER: short, "headers": {HEADER: long}}).attempts) == 1
    assert len(read_header({HEADER: long, "headers": {HEADER: short}}).attempts) == 1


@pytest.mark.parametrize("copied", [False, True])
def test_one_header_in_both_places_is_read_once(copied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # a task's request has it in both, because Celery copies custom headers into a nested `headers`
    read, decode = list[object](), module._decode
    monkeypatch.setattr(module, "_decode", lambda raw, *rest: (read.append(raw), decode(raw, *rest))[1])
    encoded = Header(T0, attempts=(attempt(1), attempt(2))).encode()
    inner = json.loads(json.dumps(encoded)) if copied else encoded
    assert read_header({HEADER: encoded, "headers": {HEADER: inner}}) == read_header({HEADER: encoded})
    assert len(read) == 2


def test_headers_that_cannot_be_compared_are_read_both() -> None:
    short, long = (
        {"x": list[object](), **header.encode()}
        for header in (Header(T0, crashes=1), Header(T0, attempts=(attempt(1),)))
    )
    for each in (short, long):
        each["x"].append(each)
    with pytest.raises(RecursionError):
        _ = short == long
    for outer, inner in ((short, long), (long, short)):
        assert len(read_header({HEADER: outer, "headers": {HEADER: inner}}).attempts) == 1


@pytest.mark.parametrize("nested", [None, {}, {HEADER: None}, {HEADER: Header(T0, attempts=(attempt(1),)).encode()}])
def test_all_but_the_attempts_can_be_read_alone(nested: object) -> None:
    top = Header(T0, T0, (attempt(1), attempt(2)), 3, LETTER, 2, "work", True, T0, ("args",), "s3cret")
    for header in (top, Header(T0)):
        headers = {HEADER: header.encode(), "headers": nested}
        assert read_header(headers, attempts=False) == replace(read_header(headers), attempts=())
    assert replace(top, attempts=()) == read_header({HEADER: top.encode()}, attempts=False)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "v",
        "published_at",
        "requeued_at",
        "history",
        "crashes",
        "dead_letter_id",
        "generation",
        "claim_token",
        "n",
        "ended_at",
    ]
)


@given(st.dictionaries(FIELDS, JUNK | st.lists(st.dictionaries(FIELDS, JUNK, max_size=6), max_size=3)) | JUNK)
def test_a_mangled_header_counts_as_absent_and_never_raises(raw: object) -> None:
    header = read_header({HEADER: raw})
    assert isinstance(header, Header)
    json.dumps(header.encode())


@pytest.mark.parametrize("headers", [None, [], "x", {}, {HEADER: None}, {"headers": 3}])
def test_no_header_is_an_empty_one(headers: object) -> None:
    assert read_header(headers) == Header()  # type: ignore[arg-type]


def test_the_deadline_counts_from_the_requeue() -> None:
    assert Header(T0).deadline_starts_at == T0
    assert Header(T0, requeued_at=T0 + timedelta(days=1)).deadline_starts_at == T0 + timedelta(days=1)
    assert Header().deadline_starts_at is None


def test_the_deadline_of_work_for_later_counts_from_when_it_was_due() -> None:
    due, back = T0 + timedelta(hours=3), T0 + timedelta(days=1)
    assert Header(T0, due_at=due).deadline_starts_at == due
    assert Header(T0, due_at=due).life_starts_at == T0  # it may have run since then, whenever it was due
    assert Header(due, due_at=T0).deadline_starts_at == due
    assert Header(T0, back, due_at=due).deadline_starts_at == back
    said = [Header(T0), Header(T0, due_at=due), Header(T0, back, due_at=due)]
    assert [header.deadline_event for header in said] == ["the first publish", "it was due", "it was put back"]
    headers: dict[str, object] = {}
    write_header(headers, Header(T0, due_at=due))
    assert read_header(headers).with_attempt(attempt(1)).due_at == due
    assert read_header({HEADER: {"v": 1, "due_at": "tomorrow"}}).due_at is None


def test_a_longer_history_than_ours_is_bounded_when_it_is_read() -> None:
    entry = {
        "ended_at": 1.0,
        "error": "E" * 9000,
        "message": "m" * 9000,
        "fingerprint": "f" * 9000,
        "worker": "w" * 9000,
    }
    history = [{**entry, "n": number} for number in range(1, 50_001)]
    read = read_header({HEADER: {"v": 1, "history": history}, "headers": {HEADER: {"v": 1, "history": history}}})
    assert [kept.number for kept in read.attempts] == [1, 2, *range(49_993, 50_001)]
    first = read.attempts[0]
    assert [len(text) for text in (first.error, first.message, first.fingerprint, first.worker)] == [120, 200, 64, 80]


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1.0, 10**400, -(10**400), 1e300, True])
def test_numbers_that_are_no_instant_and_no_delay(odd: object) -> None:
    history = [{"n": 1, "ended_at": 1.0, "delay": odd, "started_at": odd}]
    read = read_header({HEADER: {"v": 1, "published_at": odd, "due_at": odd, "requeued_at": odd, "history": history}})
    assert (read.published_at, read.due_at, read.requeued_at) == (None, None, None)
    assert (read.attempts[0].delay, read.attempts[0].started_at) == (None, None)
    json.dumps(read.encode(), allow_nan=False)
