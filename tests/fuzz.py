"""Messages that nobody in their senses would send, as hypothesis strategies, and a way to draw many of them.

A message is a good one, changed in one to three places. Drawing is reproducible: with one version of hypothesis the
same seed gives the same ones. A process of its own draws, `python -m tests.fuzz messages 700 1`, because hypothesis
uses the constants of all modules that are loaded.
"""

from __future__ import annotations

import json
import math
import pickle
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from celery_guardrails.letters.codec import encode
from tests import hostile
from tests.published import Published, task_message
from tests.unit.letters.test_codec import letter

__all__ = ["TASKS", "draw", "for_amqp"]

TASKS = ("fuzz.succeeds", "fuzz.plain", "fuzz.fails", "fuzz.retries")
_PER_RUN = 500
_SIZES = (0, 1, 17, 255, 256, 4_096, 65_535, 65_536, 262_145, 1_048_576)
_HEADERS = (
    "task", "id", "root_id", "parent_id", "group", "group_index", "meth", "shadow", "lang", "origin", "retries",
    "eta", "expires", "argsrepr", "kwargsrepr", "ignore_result", "replaced_task_nesting", "stamps",
    "stamped_headers", "headers", "chord", "chain", "callbacks", "errbacks", "properties", "delivery_info",
    "reply_to", "correlation_id", "hostname", "args", "kwargs", "redelivered", "guardrails", "compression",
    "sentry-trace", "utc", "priority", "x-death", "x-delivery-count",
)  # fmt: skip
_TYPES = (
    None, "", "application/json", "application/JSON", "application/x-python-serialize", "application/x-yaml",
    "application/x-msgpack", "application/data", "text/plain", "text/html", "json", "pickle",
    "\u00e4/\u00f6", "x" * 200,
)  # fmt: skip
_ENCODINGS = (
    None, "", "utf-8", "UTF-8", "utf-16", "utf-32", "latin-1", "ascii", "us-ascii", "binary", "ascii-8bit", "utf-7",
    "idna", "rot13", "klingon", "punycode", "unicode_escape", "base64", "hex",
)  # fmt: skip
_COMPRESSIONS = ("zlib", "gzip", "application/x-gzip", "application/x-bz2", "application/x-lzma", "klingon", "", "zstd")
_TIMELIMITS = (
    None, [], [None], [60, 30], [None, None, None], "60", 60, {}, ["a", "b"], [60, "b"], [None, -1], [-5, None],
    [math.nan, None], [math.inf, None], [2**40, None], [True, False], [[60], None], [1e9, 1e9],
)  # fmt: skip
_DATES = (
    "", "soon", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2020-01-01T00:00:00", "2020-01-01",
    "2020-02-31T00:00:00Z", "10000-01-01T00:00:00Z", 0, -1, 1.5, [], {}, False, "1969-12-31T23:59:59Z",
)  # fmt: skip

T = TypeVar("T")

_text = st.one_of(
    st.text(max_size=12), st.sampled_from(["\0", "\u202e", "'; DROP TABLE", "%s%n", "a" * 255, "\U0001f4a3", "\ud800"])
)
_scalar = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(width=32), _text,
    st.sampled_from([0, -1, 1, 2**31, -(2**31), "", "0", math.nan, math.inf]),
)  # fmt: skip
junk = st.one_of(
    _scalar,
    st.lists(_scalar, max_size=3),
    st.dictionaries(st.text(max_size=6), _scalar, max_size=3),
    st.sampled_from([{}, [], [[]], [[[1]]], {"a": {"b": {"c": []}}}, [{}], {"": None}]),
)
_attempt = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("n", "started_at", "ended_at", "error", "message", "category", "fingerprint"), _scalar)
)
guardrails_header = st.one_of(
    junk,
    st.fixed_dictionaries(
        {"v": st.sampled_from([0, 1, 2, 99, -1, "1", None, 1.5, True])},
        optional={
            "published_at": _scalar, "history": st.one_of(junk, st.lists(_attempt, max_size=12)), "crashes": _scalar,
            "dead_letter_id": _scalar, "generation": _scalar, "requeued_at": _scalar,
        },
    ),
)  # fmt: skip

Change = Callable[[Published], Published]


def draw(kind: str, count: int, number: int) -> list[Any]:
    """So many `messages`, `envelopes`, `dead_letters` or `hostile_letters`, always the same for one seed."""
    command = [sys.executable, "-m", "tests.fuzz", kind, str(count), str(number)]
    drawn: list[Any] = pickle.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return drawn


def _draw(strategy: st.SearchStrategy[T], count: int, number: int) -> list[T]:
    found: list[T] = []
    while len(found) < count:

        @seed(number * 10_007 + len(found))
        @settings(
            max_examples=min(_PER_RUN, count - len(found)), phases=[Phase.generate], database=None, deadline=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(strategy)
        def collect(example: T) -> None:
            found.append(example)

        collect()
    return found[:count]


def messages() -> st.SearchStrategy[Published]:
    """A message for a task queue."""
    changes = st.lists(_change(), min_size=1, max_size=3)
    task = st.one_of(st.sampled_from(TASKS), st.sampled_from(TASKS), st.sampled_from(["shop.gone", "", "fuzz", "\0"]))
    return st.builds(_changed, task, changes)


def for_amqp(message: Published) -> Published:
    """The message without header values for which RabbitMQ itself closes the publisher's connection."""
    return replace(message, headers={key: _finite(value) for key, value in message.headers.items()})


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _changed(task: str, changes: list[Change]) -> Published:
    message = task_message(task, ("a",), {"b": 1})
    for change in changes:
        message = change(message)
    return message


def _change() -> st.SearchStrategy[Change]:
    return st.one_of(
        st.builds(_set, st.sampled_from(_HEADERS), junk),
        st.builds(_set, st.sampled_from(["eta", "expires"]), st.sampled_from(_DATES)),
        st.builds(_set, st.just("timelimit"), st.sampled_from(_TIMELIMITS)),
        st.builds(_set, st.just("guardrails"), guardrails_header),
        st.builds(_drop, st.sets(st.sampled_from(_HEADERS), min_size=1, max_size=4)),
        st.builds(_no_headers, st.booleans()),
        st.builds(_body, st.binary(max_size=60)),
        st.builds(_payload, st.one_of(junk, st.lists(junk, max_size=4))),
        st.builds(_part, st.integers(0, 2), junk),
        st.builds(_embed, st.sampled_from(["callbacks", "errbacks", "chain", "chord", "id", "args", "x"]), junk),
        st.builds(_cut, st.integers(0, 60)),
        st.builds(_sized, st.sampled_from(_SIZES), st.integers(0, 99)),
        st.builds(_typed, st.sampled_from(_TYPES), st.sampled_from(_ENCODINGS)),
        st.builds(_compressed, st.sampled_from(_COMPRESSIONS), st.booleans(), st.integers(0, 20)),
        st.builds(_protocol_1, junk, st.sampled_from(["args", "kwargs", "id", "eta", "expires", "timelimit", "x"])),
        st.builds(_property, st.sampled_from(["correlation_id", "reply_to", "message_id", "type"]), _text),
    )


def _set(name: str, value: Any) -> Change:
    return lambda message: replace(message, headers={**message.headers, name: value})


def _drop(names: set[str]) -> Change:
    return lambda message: replace(
        message, headers={key: value for key, value in message.headers.items() if key not in names}
    )


def _no_headers(keep_body: bool) -> Change:
    return lambda message: replace(message, headers={}, body=message.body if keep_body else b"[]")


def _body(body: bytes) -> Change:
    return lambda message: replace(message, body=body)


def _payload(value: Any) -> Change:
    return _body(json.dumps(value).encode())


def _part(place: int, value: Any) -> Change:
    parts: list[Any] = [["a"], {"b": 1}, {}]
    parts[place] = value
    return _payload(parts)


def _embed(name: str, value: Any) -> Change:
    return _part(2, {name: value})


def _cut(end: int) -> Change:
    return lambda message: replace(message, body=message.body[:end])


def _sized(size: int, number: int) -> Change:
    if number > 20:  # a few large ones say as much as many
        size = min(size, 5_000)
    if number % 2:
        return _body(random.Random(number).randbytes(size))
    return _payload([["x" * size], {}, {}])


def _typed(content_type: str | None, encoding: str | None) -> Change:
    return lambda message: replace(message, content_type=content_type, content_encoding=encoding)


def _compressed(name: str, really: bool, missing: int) -> Change:
    def change(message: Published) -> Published:
        body = zlib.compress(message.body) if really else message.body
        return replace(message, body=body[: len(body) - missing], headers={**message.headers, "compression": name})

    return change


def _protocol_1(value: Any, place: str) -> Change:
    def change(message: Published) -> Published:
        body = {"task": message.headers.get("task"), "id": message.headers.get("id"), "args": [], "kwargs": {}}
        if place != "x":
            body[place] = value
        return replace(message, body=json.dumps(body, default=str).encode(), headers={})

    return change


def _property(name: str, value: str) -> Change:
    return lambda message: replace(
        message, properties={**message.properties, name: value.encode(errors="ignore")[:200].decode(errors="ignore")}
    )


def envelopes() -> st.SearchStrategy[bytes]:
    """What lies in a Redis list: kombu's envelope, broken, or no envelope at all."""
    good = {
        "body": "W1tdLCB7fSwge31d", "content-encoding": "utf-8", "content-type": "application/json",
        "headers": dict(task_message("fuzz.succeeds").headers),
        "properties": {
            "correlation_id": "c", "reply_to": "r", "delivery_mode": 2, "priority": 0, "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "q"}, "delivery_tag": "t",
        },
    }  # fmt: skip
    top = st.builds(lambda key, value: {**good, key: value}, st.sampled_from(list(good)), junk)
    less = st.builds(
        lambda gone: {key: value for key, value in good.items() if key not in gone},
        st.sets(st.sampled_from(list(good)), min_size=1),
    )
    properties: dict[str, Any] = good["properties"]  # type: ignore[assignment]
    inner = st.builds(
        lambda key, value: {**good, "properties": {**properties, key: value}}, st.sampled_from(list(properties)), junk
    )
    fewer = st.builds(
        lambda gone: {**good, "properties": {key: value for key, value in properties.items() if key not in gone}},
        st.sets(st.sampled_from(list(properties)), min_size=1),
    )
    made = st.one_of(top, less, inner, fewer, junk).map(lambda value: json.dumps(value).encode())
    cut = st.builds(lambda text, end: text[:end], made, st.integers(1, 400))
    large = st.builds(
        lambda size, number: random.Random(number).randbytes(size), st.sampled_from(_SIZES[1:]), st.integers(0, 9)
    )
    return st.one_of(
        made, made, made, cut, st.binary(min_size=1, max_size=80), large.filter(lambda raw: len(raw) < 70_000)
    )


def dead_letters() -> st.SearchStrategy[bytes]:
    """What may lie in a dead-letter queue: a good letter, changed."""
    good: dict[str, Any] = json.loads(encode(letter()))
    paths = (
        [(key,) for key in good]
        + [("failure", key) for key in good["failure"]]
        + [("message", key) for key in good["message"]]
    )
    versions = st.sampled_from([0, 1, 2, 3, 99, 2**70, -1, "1", "2", None, 1.0, 2.5, True, [], {}])
    changed = st.builds(_replaced, st.just(good), st.sampled_from(paths), junk)
    twice = st.builds(_replaced, changed, st.sampled_from(paths), junk)
    versioned = st.builds(_replaced, st.one_of(st.just(good), changed), st.just(("v",)), versions)
    made = st.one_of(changed, twice, versioned, st.just(good), junk).map(lambda value: json.dumps(value).encode())
    cut = st.builds(lambda text, end: text[:end], made, st.integers(0, 800))
    return st.one_of(made, made, made, cut, st.binary(max_size=60))


def _replaced(data: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**data, path[0]: value}
    inner = data.get(path[0])
    return {**data, path[0]: {**(inner if isinstance(inner, dict) else {}), path[1]: value}}


KINDS: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
    "messages": messages, "envelopes": envelopes, "dead_letters": dead_letters, "hostile_letters": hostile.letters,
}  # fmt: skip

if __name__ == "__main__":
    _, kind_, count_, number_ = sys.argv
    sys.stdout.buffer.write(pickle.dumps(_draw(KINDS[kind_](), int(count_), int(number_))))
