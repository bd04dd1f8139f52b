"""Whatever lies in the dead-letter queue ends in the archive: it neither ends the guardian nor keeps others waiting."""

from __future__ import annotations

import bz2
import json
import zlib
from typing import Any

import pytest
from redis import Redis

from celery_guardrails.letters.codec import encode
from celery_guardrails.recovery import search
from celery_guardrails.recovery.query import parse_query
from celery_guardrails.transport.dead_letter import recovered_queue
from tests.integration.guardian.bench import NOW, QUEUE, Bench, letter
from tests.unit.transport.test_compression import bounded
from tests.waiting import wait_until

UNREADABLE: dict[str, tuple[bytes, dict[str, Any]]] = {
    "compressed, it says, and is not": (b"plain", {"headers": {"compression": "zlib"}}),
    "compressed in an unknown way": (b"plain too", {"headers": {"compression": "no-such"}}),
    "a compression that is no text": (b"and plain", {"headers": {"compression": 7}}),
    "half a character": (b"\\ud800", {"content_type": "text/plain", "content_encoding": "unicode_escape"}),
    "another charset": ("\u00e4\u00e4".encode("latin-1"), {"content_encoding": "latin-1"}),
    "an unknown charset": (b"?", {"content_encoding": "klingon"}),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_archived_as_it_was_published(bench: Bench, case: str) -> None:
    body, odd = UNREADABLE[case]
    bench.raw(body, **odd)
    with bench.running(bench.guardian()) as thread:
        wait_until(lambda: bench.count("reason:undecodable") == 1, 30, "the odd message in the archive")
        bench.sender.send(letter(1))
        wait_until(lambda: bench.count() == 2, 30, "the letter behind it in the archive")
        wait_until(lambda: bench.waiting() == 0, 30, "an empty queue")
        assert thread.is_alive()
    (found,) = search.each(bench.store, parse_query("reason:undecodable", NOW))
    assert search.get(bench.store, found.id).letter.message.body == body


def test_a_letter_whose_headers_lie_is_a_letter(bench: Bench) -> None:
    bench.raw(encode(letter(1)), headers={"compression": "zlib"})
    for body in (encode(letter(2)), encode(letter(4)) + b" "):  # of an even and an odd length: one of them fits UTF-16
        bench.raw(body, content_encoding="utf-16")
    bench.raw(encode(letter(3)), recovered_queue(QUEUE), headers={"compression": "zlib"})
    report = bench.guardian().run_once()
    assert (report.archived, report.held) == (4, 0)
    assert bench.count("reason:undecodable") == 1


@pytest.mark.parametrize(
    "delivery_info", [[1], "text", 7, {"routing_key": [], "exchange": {}, "consumer_tag": [2]}, {}, None]
)
def test_a_message_that_lies_about_its_delivery(on_redis: Bench, delivery_info: Any) -> None:
    bench = on_redis
    with Redis.from_url(bench.app.conf.broker_url) as server:
        bench.sender.send(letter(1))
        message = json.loads(server.lpop(QUEUE) or b"")
        message["properties"]["delivery_info"] = delivery_info
        server.lpush(QUEUE, json.dumps(message))
    bench.sender.send(letter(2))
    report = bench.guardian().run_once()
    assert report.archived == 2
    assert bench.waiting() == 0


def test_a_bomb_in_the_dead_letter_queue_is_archived_as_it_came(bench: Bench) -> None:
    bomb = bz2.compress(b"\0" * 10_000_000) * 100  # a gigabyte
    bench.raw(bomb, headers={"compression": "bzip2"})
    bench.sender.send(letter(1))
    bench.raw(zlib.compress(b"\0" * 10_000_000), headers={"compression": "zlib"})
    with bounded(1_000_000):
        report = bench.guardian().run_once()
    assert (report.archived, report.held) == (3, 0)
    assert bench.count("reason:undecodable") == 2
