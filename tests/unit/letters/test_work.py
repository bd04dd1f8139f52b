"""Which work a message belongs to, by what is in it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from celery_guardrails.letters.header import Header, read_header
from celery_guardrails.letters.record import letter_id
from celery_guardrails.letters.work import Work, new_token
from celery_guardrails.policy.decision import Reason

NOW = datetime(2026, 11, 22, 8, 30, 0, 123000, tzinfo=timezone.utc)


NONE = Header()


def work(header: Header = NONE, **changes: Any) -> Work:
    fields: dict[str, Any] = {"task_id": "t-1", "task": "shop.mail", "queue": "shop", "body": b"[[1], {}, {}]"}
    return Work.of(header, **{**fields, "properties": {}, "arrival": None, **changes})


def test_the_header_names_the_publish_whatever_becomes_of_the_arguments():
    header = Header(NOW, work="abc")
    assert work(header) == work(replace(header, generation=2, dead_letter_id="d-1"), body=b"[[2], {}, {}]")
    assert work(header) == work(header, properties={"delivery_tag": "x"}, arrival="a")
    for other in ({"task_id": "t-2"}, {"task": "shop.import"}, {"queue": "other"}):
        assert work(header, **other) != work(header)
    assert work(Header(NOW, work="abd")) != work(header)


def test_what_was_put_back_without_a_name_is_its_letters():
    assert work(Header(NOW, dead_letter_id="d-1")) == work(Header(dead_letter_id="d-1"), body=b"another")
    assert work(Header(NOW, dead_letter_id="d-2")) != work(Header(NOW, dead_letter_id="d-1"))


def test_before_headers_named_it_the_publish_is_told_by_its_time_and_its_arguments():
    header = Header(NOW)
    assert work(header) == work(header, properties={"delivery_tag": "x"}, arrival="a")
    assert work(header) == work(read_header({"guardrails": header.encode()}))
    assert work(header) != work(Header(NOW + timedelta(milliseconds=1)))
    assert work(header) != work(header, body=b"[[2], {}, {}]")
    assert work(header, body=b"[]") == work(header, body="[]") == work(header, body=memoryview(b"[]"))
    assert work(header).is_lasting


@pytest.mark.parametrize("name", ["delivery_tag", "message_id"])
def test_without_a_header_the_publishers_own_name_for_its_message_tells_it(name: str):
    found = work(properties={name: "m-1"}, arrival="a")
    assert found == work(properties={name: "m-1"}, arrival="b")
    assert found.is_lasting
    assert found != work(properties={name: "m-2"})
    assert found != work(properties={name: "m-1"}, body=b"another")


@pytest.mark.parametrize("properties", [{}, {"delivery_tag": 1}, {"message_id": "t-1"}, {"message_id": ""}])
def test_what_nothing_tells_apart_is_each_delivery(properties: dict[str, Any]):
    first, second = work(properties=properties, arrival="a"), work(properties=properties, arrival="b")
    assert first != second
    assert first == work(properties=properties, arrival="a")
    assert work(properties=properties) != work(properties=properties)
    assert not first.is_lasting
    assert first.key != second.key
    assert first.lasting_key == second.lasting_key
    assert first.lasting_key != work(properties=properties, body=b"another").lasting_key


def test_once_written_down_it_stays_the_same_work():
    first = work(arrival="a")
    assert work(Header(NOW, work=first.publish, id_given=True), arrival="b") == first


def test_keys_cannot_be_mistaken():
    assert Work("a/b", "c", "", "").key != Work("a", "b/c", "", "").key
    assert letter_id(Work("\ud800", "t", "q", "p"), 1, 0, Reason.EXPIRED)
    made = letter_id(Work("t", "t", "q", "p"), 1, 0, Reason.EXPIRED)
    assert made == letter_id(Work("t", "t", "q", "p", "content"), 1, 0, Reason.EXPIRED)
    others = [
        letter_id(Work("t", "t", "q", "p"), *rest)
        for rest in ((2, 0, Reason.EXPIRED), (1, 1, Reason.EXPIRED), (1, 0, Reason.REJECTED))
    ]
    assert len({made, letter_id(Work("t", "t", "q", "P"), 1, 0, Reason.EXPIRED), *others}) == 5


def test_a_header_carries_its_name_and_who_chose_the_id():
    for header in (Header(NOW, work="abc"), Header(NOW, work="abc", id_given=True), Header(NOW)):
        assert read_header({"guardrails": header.encode()}) == header
    assert Header(NOW, work="abc").owns_its_id
    assert not Header(NOW, work="abc", id_given=True).owns_its_id
    assert not Header(NOW).owns_its_id
    assert read_header({"guardrails": {"v": 1, "work": ["x"], "given": "yes"}}) == Header()
    assert len(str(read_header({"guardrails": {"v": 1, "work": "x" * 500}}).work)) == 64


def test_tokens_differ():
    assert len({new_token() for _ in range(1000)}) == 1000
