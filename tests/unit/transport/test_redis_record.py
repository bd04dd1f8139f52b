from __future__ import annotations

import json
from typing import Any

import pytest

from celery_guardrails.transport.redis import held as custody_module
from celery_guardrails.transport.redis.held import Custody
from celery_guardrails.transport.redis.record import (
    Unreadable,
    quarantined,
    read_quarantined,
    read_unacked,
    redelivered,
)


@pytest.mark.parametrize(("queue", "item"), [("mail", b"x"), ("", b""), ("k\u00fcche:1", b"\xff:\n"), ("12", b"3:4")])
def test_an_unreadable_item_is_kept_byte_for_byte(queue: str, item: bytes) -> None:
    assert read_quarantined(quarantined(queue, item)) == (queue, item)


def test_a_record_of_kombu_is_read() -> None:
    record = json.dumps([{"body": "x"}, "shop", "mail"]).encode()
    assert read_unacked(record) == ({"body": "x"}, "shop", "mail")
    assert read_unacked(b'[{}, "", "q"]') == ({}, "", "q")
    assert read_unacked(b"[{}, null, null]") == ({}, "", "")


@pytest.mark.parametrize("record", [b"", b"x", b"[1]", b"{}", b'[[1], "", "q"]', b'["x", "", "q"]', b"\xff", b"3"])
def test_what_is_no_record_is_said_to_be_none(record: bytes) -> None:
    with pytest.raises(Unreadable):
        read_unacked(record)


def test_a_message_that_goes_back_is_marked_as_kombu_marks_it() -> None:
    message: dict[str, Any] = {"headers": {"id": "1"}, "properties": {"delivery_info": {"exchange": ""}}}
    marked = json.loads(redelivered(message))
    assert marked["headers"]["redelivered"] is True
    assert marked["properties"]["delivery_info"]["redelivered"] is True


@pytest.mark.parametrize("message", [{}, {"headers": None, "properties": None}, {"headers": [], "properties": {}}])
def test_a_message_without_headers_goes_back_as_it_is(message: dict[str, Any]) -> None:
    assert json.loads(redelivered(dict(message))) == message


class Channel:
    def __init__(self, *tags: str) -> None:
        self.tags = list(tags)
        self.retired = False

    def held(self) -> list[str]:
        return self.tags

    def retire(self) -> None:
        self.retired = True


def test_custody_knows_what_its_channels_hold() -> None:
    custody = Custody(lambda raw, queue, tag: True)
    first, second = Channel("a"), Channel("b", "c")
    custody.add(first)
    custody.add(second)
    assert sorted(custody.held()) == ["a", "b", "c"]
    custody.retire()
    assert first.retired
    assert second.retired
    del first
    assert sorted(custody.held()) == ["b", "c"]
    assert custody.running() == set()


def test_doubts_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    custody = Custody(lambda raw, queue, tag: True)
    custody.doubt(["a", "b"])
    assert custody.doubtful() == ["a", "b"]
    later = custody_module.time.monotonic() + 121
    monkeypatch.setattr(custody_module.time, "monotonic", lambda: later)
    assert custody.doubtful() == []
