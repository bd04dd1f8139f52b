"""Messages that never become a task: each is dead-lettered once and whole, and the worker goes on."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import amqp
import pytest

from celery_guardrails.letters.record import Letter
from celery_guardrails.policy.decision import Reason
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.published import Published, publish, task_message

HEARD, PLAIN = "guarded.heard", "outside.plain"


def with_body(task: str, body: Any, **headers: Any) -> Published:
    return replace(task_message(task, **headers), body=body if isinstance(body, bytes) else json.dumps(body).encode())


def rows() -> dict[str, tuple[Published, Reason, str]]:
    """Each row: the message, the reason, and what the explanation says."""
    return {**unreadable_rows(), **misshapen_rows()}


def unreadable_rows() -> dict[str, tuple[Published, Reason, str]]:
    unreadable = Reason.UNDECODABLE
    zipped = task_message(HEARD)
    return {
        "unknown": (task_message("shop.gone", ("a",)), Reason.UNKNOWN_TASK, "no task of that name"),
        "unknown, broken body": (with_body("shop.gone", b"{"), Reason.UNKNOWN_TASK, "no task of that name"),
        "unknown, no id": (task_message("shop.gone", id=...), Reason.UNKNOWN_TASK, "no task of that name"),
        "broken JSON": (with_body(HEARD, b'[["a"], {"x": '), unreadable, "Expecting value"),
        "not UTF-8": (with_body(PLAIN, b"\xff\xfe\xfa"), unreadable, "decode byte"),
        "pickle": (replace(task_message(HEARD), content_type="application/x-python-serialize"), unreadable, "pickle"),
        "unknown type": (replace(task_message(PLAIN), content_type="text/html"), unreadable, "untrusted"),
        "no type": (replace(task_message(HEARD), content_type=None), unreadable, "untrusted|disallowed|body is a"),
        "unknown encoding": (replace(zipped, content_encoding="klingon", content_type="application/x"), unreadable,
                             "untrusted"),
        "unknown compression": (replace(zipped, headers={**zipped.headers, "compression": "klingon"}), unreadable,
                                "klingon"),
        "broken compression": (replace(zipped, body=zlib.compress(zipped.body)[:-9],
                                       headers={**zipped.headers, "compression": "application/x-gzip"}),
                               unreadable, "incomplete"),
    }  # fmt: skip


def misshapen_rows() -> dict[str, tuple[Published, Reason, str]]:
    unreadable = Reason.UNDECODABLE
    return {
        "bad eta": (task_message(HEARD, eta="soon"), unreadable, "invalid ETA"),
        "eta before time": (task_message(PLAIN, eta="0001-01-01T00:00:00+23:59"), unreadable, "eta is out of range"),
        "bad expires": (task_message(HEARD, expires={"a": 1}), unreadable, "invalid expires"),
        "bad timelimit": (task_message(PLAIN, timelimit=["soon", None]), unreadable, "timelimit has a str"),
        "single timelimit": (task_message(HEARD, timelimit=[3]), unreadable, "timelimit is a list, not a pair"),
        "bad retries": (task_message(HEARD, retries="many"), unreadable, "retries is a str"),
        "bad stamps": (task_message(PLAIN, stamped_headers=0.5), unreadable, "stamped_headers is a float, not a list"),
        "bad shadow": (task_message(PLAIN, shadow={"a": None}), unreadable, "shadow is a dict, not a text"),
        "no headers": (Published(b"[]"), unreadable, "names no task"),
        "no headers, not JSON": (Published(b"hello"), unreadable, "Expecting value"),
        "no headers, a mapping": (Published(b'{"args": []}'), unreadable, "names no task"),
        "task is a list": (task_message(["a"]), unreadable, "unhashable"),
        "task is nothing": (task_message(None), Reason.UNKNOWN_TASK, "no task of that name"),
        "no id": (task_message(PLAIN, id=...), unreadable, "no id"),
        "id is a mapping": (task_message(PLAIN, id={"a": 1}), unreadable, "unhashable"),
        "body [[1]]": (with_body(HEARD, [[1]]), unreadable, "a list of 1"),
        "plain body [[1]]": (with_body(PLAIN, [[1]]), unreadable, "a list of 1"),
        "body is a number": (with_body(HEARD, 5), unreadable, "the body is a int"),
        "body is empty": (with_body(PLAIN, b""), unreadable, "the body is a (bytes|str)"),
        "kwargs is a list": (with_body(HEARD, [["a"], ["b"], {}]), unreadable, "kwargs is a list"),
        "plain kwargs is text": (with_body(PLAIN, [["a"], "b", {}]), unreadable, "kwargs is a str"),
        "args is text": (with_body(HEARD, ["a", {}, {}]), unreadable, "args is a str"),
        "embed is text": (with_body(PLAIN, [[], {}, "x"]), unreadable, "embed is a str"),
        "protocol 1, kwargs": (Published(b'{"task":"%s","id":"p1","args":[],"kwargs":[]}' % PLAIN.encode()),
                               unreadable, "kwargs is a list"),
        "protocol 1, unknown": (Published(b'{"task":"shop.gone","id":"p2"}'), Reason.UNKNOWN_TASK, "no task"),
        "protocol 1, no id": (Published(b'{"task":"%s","args":[]}' % PLAIN.encode()), unreadable, "no id"),
    }  # fmt: skip


def marked(name: str, message: Published) -> Published:
    return replace(message, headers={**message.headers, "row": name})


def test_each_is_dead_lettered_once_and_whole(guarded: Guarded) -> None:
    worker = guarded.worker("-Q", f"{guarded.prefix}.tasks", pool="prefork")
    wanted = rows()
    publish(guarded.app, f"{guarded.prefix}.tasks", [marked(name, row[0]) for name, row in wanted.items()])
    found: dict[str, list[Letter]] = {}
    for letter in guarded.letters(len(wanted), bound=60):
        found.setdefault(letter.message.headers["row"], []).append(letter)
    guarded.finish()
    assert sorted(found) == sorted(wanted)
    for name, (message, reason, words) in wanted.items():
        (letter,) = found[name]
        assert letter.reason is reason, name
        assert re.search(words, letter.explanation), (name, letter.explanation)
        assert letter.message.body == message.body, name
        assert letter.message.content_type == message.content_type, name
        assert {**message.headers, "row": name} == {
            key: value for key, value in letter.message.headers.items() if key != "redelivered"
        }, name
        assert letter.queue == f"{guarded.prefix}.tasks", name
        assert letter.task == (message.headers.get("task") if isinstance(message.headers.get("task"), str) else
                               letter.task), name  # fmt: skip
    assert len({letters[0].id for letters in found.values()}) == len(wanted)
    assert worker.is_running
    assert "Unrecoverable" not in worker.log()
    assert "Trying to re-establish the connection" not in worker.log()


def test_the_kill_switch_leaves_it_to_celery(broker: Broker, make_guarded: Callable[..., Guarded]) -> None:
    guarded = make_guarded(broker, enabled=False)
    worker = guarded.worker()
    publish(guarded.app, f"{guarded.prefix}.tasks", [task_message("shop.gone"), with_body(HEARD, b"{")])
    worker.wait_for_log("Received unregistered task")
    worker.wait_for_log("Can't decode message body")
    guarded.no_letters()


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_on_other_pools_too(on_redis: Guarded, pool: str) -> None:
    worker = on_redis.worker(pool=pool)
    publish(on_redis.app, f"{on_redis.prefix}.tasks", [with_body(PLAIN, [[1]]), task_message("shop.gone")])
    assert {letter.reason for letter in on_redis.letters(2)} == {Reason.UNDECODABLE, Reason.UNKNOWN_TASK}
    on_redis.finish()
    assert worker.is_running


class RawProperties(amqp.Message):
    """A message whose property bytes are given; the client would not write them."""

    def __init__(self, body: bytes, raw: bytes) -> None:
        super().__init__(body)
        self.raw = raw

    def _serialize_properties(self) -> bytes:
        return self.raw


def table(entry: bytes) -> bytes:
    return b"\x20\x00" + struct.pack(">I", len(entry)) + entry


def nested(depth: int) -> bytes:
    entry = b"\x01aV"
    for _ in range(depth):
        entry = b"\x01aF" + struct.pack(">I", len(entry)) + entry
    return entry


RAW_PROPERTIES = {
    "a date after 9999": table(b"\x01aT" + struct.pack(">Q", 2**62)),
    "a type that is no UTF-8": b"\x80\x00\x02\xff\xfe",
    "an id that is no UTF-8": b"\x04\x00\x02\xff\xfe",
    "a deep table": table(nested(3000)),
}


def test_amqp_properties_that_the_client_cannot_read(rabbitmq_broker: Broker, make_guarded: Any) -> None:
    guarded = make_guarded(rabbitmq_broker)
    worker = guarded.worker()
    queue = f"{guarded.prefix}.tasks"
    with guarded.app.connection_for_write() as connection, connection.channel() as channel:
        guarded.app.amqp.queues[queue](channel).declare()
        for name, raw in RAW_PROPERTIES.items():
            channel.basic_publish(RawProperties(name.encode(), raw), exchange="", routing_key=queue)
    letters = guarded.letters(len(RAW_PROPERTIES))
    guarded.finish()
    assert {letter.message.body.decode() for letter in letters} == set(RAW_PROPERTIES)
    for letter in letters:
        kept = bytes.fromhex(letter.message.properties["guardrails_unread"])
        assert kept == RAW_PROPERTIES[letter.message.body.decode()]
        assert letter.queue == queue
    assert "Trying to re-establish the connection" not in worker.log()
