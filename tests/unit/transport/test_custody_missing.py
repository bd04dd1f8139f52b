"""Messages that Redis does not know any more are counted once, when they are missing twice."""

from __future__ import annotations

from celery_guardrails.transport.redis.held import Custody


def test_what_is_missing_twice_in_a_row_is_counted_once() -> None:
    custody = Custody(lambda *_: True)
    assert custody.miss({"a", "b"}) == 0
    assert custody.miss({"a"}) == 1
    assert custody.miss({"a"}) == 0
    assert custody.miss({"a", "c"}) == 0
    assert custody.miss({"a", "c"}) == 1
    assert custody.miss(set()) == 0
    assert custody.miss({"a"}) == 0


def test_what_redis_is_owed_an_acknowledgement_of_may_be_gone() -> None:
    custody = Custody(lambda *_: True)
    custody.ack_later("a")
    assert [custody.miss({"a"}) for _ in range(2)] == [0, 0]
