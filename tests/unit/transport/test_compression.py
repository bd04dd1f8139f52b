"""No body is unpacked beyond the limit, and every other one as kombu does it."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Message, compression

from celery_guardrails.transport import compression as module
from celery_guardrails.transport.compression import BodyTooLarge, bound_unpacking

LIMIT = 100_000
PACK: dict[str, Callable[[bytes], bytes]] = {"zlib": zlib.compress, "bzip2": bz2.compress, "lzma": lzma.compress}
PLAIN: dict[str, Callable[[bytes], bytes]] = {"zlib": zlib.decompress, "bzip2": bz2.decompress, "lzma": lzma.decompress}


@contextmanager
def bounded(limit: int) -> Iterator[None]:
    """With this limit, whatever other tests have set; afterwards the process is as it was."""
    before = [(each, each.limit) for each in module._BOUNDED]
    decoders = dict(compression._decoders)
    bound_unpacking(limit)
    for each, _ in before:
        each.limit = limit
    yield
    for each, was in before:
        each.limit = was
    compression._decoders.update(decoders)


@pytest.fixture(autouse=True, scope="module")
def _bounded() -> Iterator[None]:
    with bounded(LIMIT):
        yield


def outcome(unpack: Callable[[bytes], bytes], body: bytes) -> Any:
    try:
        return unpack(body)
    except Exception as exc:  # noqa: BLE001 which one it is is what is compared
        return type(exc), str(exc)


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("extra", [-1, 0, 1, 5_000_000])
def test_a_body_may_be_as_large_as_the_limit(name: str, extra: int) -> None:
    body = b" " * (LIMIT + extra)
    packed = PACK[name](body)
    if extra <= 0:
        assert compression.decompress(packed, name) == body
        return
    with pytest.raises(BodyTooLarge, match=r"over 100,000 bytes .* \(dead_letter.max_decompressed\)"):
        compression.decompress(packed, name)


@pytest.mark.parametrize("name", ["bzip2", "lzma"])
def test_streams_one_after_another_count_together(name: str) -> None:
    """Ten gigabytes in a few kilobytes: whoever unpacked them all would be noticed."""
    one = PACK[name](b"\0" * 10_000_000)
    with pytest.raises(BodyTooLarge):
        compression.decompress(one * 1000, name)
    few = PACK[name](b"\0" * 1000)
    assert compression.decompress(few * 3, name) == b"\0" * 3000


@given(
    st.sampled_from(sorted(PACK)),
    st.binary(max_size=300),
    st.sampled_from(["whole", "cut", "garbage behind", "twice", "broken", "none"]),
    st.integers(0, 300),
)
def test_all_else_is_as_kombu_does_it(name: str, body: bytes, how: str, place: int) -> None:
    packed = PACK[name](body)
    place %= len(packed)
    made = {
        "whole": packed, "cut": packed[:place], "garbage behind": packed + body, "twice": packed * 2,
        "broken": packed[:place] + b"\xff" + packed[place + 1 :], "none": body,
    }[how]  # fmt: skip
    assert outcome(lambda raw: compression.decompress(raw, name), made) == outcome(PLAIN[name], made)


def test_a_message_with_a_larger_body_is_one_that_cannot_be_read() -> None:
    packed = zlib.compress(b" " * (LIMIT + 1))
    made = Message(body=packed, headers={"compression": "gzip"}, content_type="application/json")
    assert made.body == packed
    assert isinstance(made.errors[0][1], BodyTooLarge)


def test_a_way_of_compressing_that_the_application_registered_is_left_alone() -> None:
    compression.register(lambda body: body, lambda body: body * 2, "application/x-ours", ["ours"])
    try:
        bound_unpacking(LIMIT)
        assert compression.decompress(b"ab", "ours") == b"abab"
    finally:
        del compression._encoders["application/x-ours"], compression._decoders["application/x-ours"]
        del compression._aliases["ours"]


def test_of_several_limits_in_one_process_the_largest_counts() -> None:
    bound_unpacking(LIMIT - 1)
    assert {each.limit for each in module._BOUNDED} == {LIMIT}
