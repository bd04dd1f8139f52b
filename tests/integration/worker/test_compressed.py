"""Compressed messages: a small one that is large once it is unpacked does not end the worker."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import replace

from celery_guardrails.policy.decision import Reason
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.published import Published, publish, task_message

LIMIT = 200_000
HEARD = "guarded.heard"
WAYS = {"application/x-gzip": zlib.compress, "application/x-bz2": bz2.compress, "application/x-lzma": lzma.compress}


def packed(way: str, key: str, size: int) -> Published:
    message = task_message(HEARD, kwargs={"key": key})
    return replace(message, body=WAYS[way](b" " * size + message.body), headers={**message.headers, "compression": way})


def test_a_bomb_is_dead_lettered_as_it_came_and_what_fits_runs(
    broker: Broker, make_guarded: Callable[..., Guarded]
) -> None:
    guarded = make_guarded(broker, dead_letter={"queue": "bombs.dead", "max_decompressed": LIMIT})
    queue, guarded.prefix = f"{guarded.prefix}.tasks", "bombs"  # where its letters are
    worker = guarded.worker()
    bombs = [packed(way, "never", 3 * LIMIT) for way in WAYS]
    right = [packed(way, f"right{number}", LIMIT // 2) for number, way in enumerate(WAYS)]
    publish(guarded.app, queue, [*bombs, *right])
    letters = guarded.letters(len(bombs))
    for number in range(len(right)):
        guarded.wait_for_runs(f"right{number}", 1)
    assert {each.message.body for each in letters} == {bomb.body for bomb in bombs}
    for each in letters:
        assert (each.reason, each.task, each.message.compressed) == (Reason.UNDECODABLE, HEARD, True)
        assert "over 200,000 bytes once it is decompressed (dead_letter.max_decompressed)" in each.explanation
        assert f"({len(each.message.body)} bytes, compressed, that were not read)" in each.preview.args
    guarded.no_more_letters(len(bombs))
    assert guarded.runs("never") == []
    assert worker.is_running
