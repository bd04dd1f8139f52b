"""An entry of the journal as bytes: what was written is read, what was not is refused, whatever it is."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from datetime import datetime, timezone
from decimal import Decimal

import pytest

from celery_guardrails.transport.journal.entry import State, Taken, pack, unpack
from celery_guardrails.transport.spooled import NewerEntry

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)


def taken(body: bytes = b'[["a"], {}, {}]') -> Taken:
    return Taken(
        body=body,
        headers={"id": "t1", "task": "shop.mail", "odd": [b"\0\xff", Decimal("1.5"), AT, {"$": 1}], "none": None},
        properties={"delivery_tag": 7, "reply_to": None},
        delivery={"exchange": "", "routing_key": "mail", "redelivered": False, "priority": None},
        content_type="application/json",
        content_encoding="utf-8",
        worker="w1@host",
        tag="7",
        at=AT,
    )


@pytest.mark.parametrize("body", [b"", b"\n", b"x" * 4096, bytes(range(256)) * 1000])
def test_what_is_packed_is_unpacked(body: bytes) -> None:
    data = pack(taken(body))
    assert len(data) % 4096 == 0
    assert unpack(data) == (State.WRITTEN, taken(body))
    assert unpack(data + b"what an earlier, longer entry left") == (State.WRITTEN, taken(body))


def test_every_field_of_a_message_is_kept() -> None:
    """One that is added later is in here, or this fails."""
    whole = replace(taken(), arrival="a1")
    assert [field.name for field in fields(whole) if not getattr(whole, field.name)] == []
    assert unpack(pack(whole)) == (State.WRITTEN, whole)


@pytest.mark.parametrize("state", [State.ACKNOWLEDGED, State.WRITTEN])
def test_its_state_is_its_first_byte(state: State) -> None:
    assert unpack(state.value + pack(taken())[1:]) == (state, taken())


@pytest.mark.parametrize("data", [b"", State.FREE.value + pack(taken())[1:], b"F"])
def test_what_is_free_holds_nothing(data: bytes) -> None:
    assert unpack(data) == (State.FREE, None)


def test_a_newer_version_is_left_alone() -> None:
    with pytest.raises(NewerEntry, match="version 2"):
        unpack(pack(taken()).replace(b"guardrails-journal 1", b"guardrails-journal 2", 1))


def test_no_damage_is_read_as_an_entry_or_raises_anything_else() -> None:
    rng, whole = random.Random(11), pack(taken(b"x" * 600))
    used = len(whole.rstrip(b"\0"))
    for _ in range(2000):
        data = bytearray(whole)
        if rng.random() < 0.5:
            del data[rng.randrange(1, used) :]
        else:
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(used)] ^= rng.randrange(1, 256)
        try:
            state, found = unpack(bytes(data))
        except (ValueError, NewerEntry):
            continue
        assert found is None or (found == taken(b"x" * 600) and state is not State.FREE)


def test_headers_that_hold_themselves_are_refused() -> None:
    endless: dict[str, object] = {}
    endless["self"] = endless
    with pytest.raises(ValueError, match="nested too deeply"):
        pack(Taken(b"", endless, {}, {}, None, None, "", "", AT))
