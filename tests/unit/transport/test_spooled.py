from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.spooled import NewerEntry, Spooled, pack, unpack

NOW = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.datetimes()
    | st.datetimes(timezones=st.just(timezone.utc))
    | st.decimals(allow_nan=False)
)
keys = st.text(max_size=4) | st.just("$")
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | st.integers(), inner, max_size=4),
    max_leaves=12,
)


def entry(**changes: Any) -> Spooled:
    envelope = {"body": b"\x00\xff", "routing_key": "mail", "headers": {"id": "t1"}, **changes}
    return Spooled(Envelope(**envelope), ("mail",), None, "attempt 2 of shop.mail[t1]", NOW)


texts = st.text(st.characters(), max_size=8)
envelopes = st.builds(
    Envelope,
    body=st.binary(max_size=400),
    routing_key=texts,
    exchange=texts,
    content_type=st.none() | texts,
    content_encoding=st.none() | texts,
    headers=st.dictionaries(keys, values, max_size=4),
    properties=st.dictionaries(keys, values, max_size=4),
    priority=st.none() | st.integers(0, 255),
    once=st.booleans(),
)
instants = st.datetimes(timezones=st.just(timezone.utc))
entries = st.builds(
    Spooled,
    envelope=envelopes,
    declare=st.lists(texts, max_size=3).map(tuple),
    due_at=st.none() | instants,
    what=texts,
    at=instants,
    letter=st.booleans(),
)


@given(entries)
def test_an_entry_comes_back_as_it_was(before: Spooled) -> None:
    assert unpack(pack(before)) == before


def test_every_field_of_a_message_is_kept() -> None:
    """One that is added later is in here, or this fails: `once` was lost so."""
    envelope = Envelope(b"b", "key", "e", "application/x", "binary", {"h": 1}, {"correlation_id": "t1"}, 3, once=True)
    before = Spooled(envelope, ("mail",), NOW + timedelta(seconds=9), "attempt 2", NOW, letter=True)
    plain = Spooled(Envelope(b"", ""), (), None, "", NOW + timedelta(seconds=1))
    for one, other in ((envelope, plain.envelope), (before, plain)):
        same = [field.name for field in fields(one) if getattr(one, field.name) == getattr(other, field.name)]
        assert same == []
    assert unpack(pack(before)) == before


def test_an_entry_that_an_older_version_wrote_may_be_published_again() -> None:
    raw = json.loads(pack(entry(once=True)))
    del raw["entry"]["envelope"]["once"]
    raw["digest"] = hashlib.sha256(json.dumps(raw["entry"], sort_keys=True).encode()).hexdigest()
    assert unpack(json.dumps(raw).encode()) == entry(once=False)


def test_what_neither_json_nor_amqp_knows_becomes_text() -> None:
    odd = {"odd": frozenset([1]), "pair": (1, Decimal("1.50")), "view": memoryview(b"x")}
    found = unpack(pack(entry(headers=odd)))
    assert found.envelope.headers == {"odd": "frozenset({1})", "pair": [1, Decimal("1.50")], "view": b"x"}


def test_headers_that_hold_themselves_are_refused() -> None:
    headers: dict[str, Any] = {}
    headers["again"] = headers
    with pytest.raises(ValueError, match="nested too deeply"):
        pack(entry(headers=headers))


@given(st.data())
def test_a_file_that_was_cut_short_is_not_read(data: st.DataObject) -> None:
    whole = pack(entry())
    with pytest.raises(ValueError):  # noqa: PT011 which one depends on the place
        unpack(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.data())
def test_a_changed_byte_is_noticed_or_harmless(data: st.DataObject) -> None:
    whole = pack(entry())
    place, value = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    try:
        found = unpack(whole[:place] + bytes([value]) + whole[place + 1 :])
    except (ValueError, NewerEntry):
        return
    assert found == entry()


def test_a_newer_version_is_told_apart() -> None:
    raw = json.loads(pack(entry()))
    with pytest.raises(NewerEntry, match=r"version 2.*upgrade"):
        unpack(json.dumps({**raw, "v": 2, "digest": "another way"}).encode())


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b'{"v": 1}', b'{"v": 1, "entry": 3, "digest": "x"}', b"[" * 100_000]
)
def test_what_is_no_entry_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 the words differ
        unpack(body)


def test_an_unknown_kind_of_value_is_refused() -> None:
    raw = json.loads(pack(entry()))
    raw["entry"]["envelope"]["headers"] = {"$": "soul", "v": 1}
    raw["digest"] = hashlib.sha256(json.dumps(raw["entry"], sort_keys=True).encode()).hexdigest()
    with pytest.raises(ValueError, match="unknown kind"):
        unpack(json.dumps(raw).encode())
