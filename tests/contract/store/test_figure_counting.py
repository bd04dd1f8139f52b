"""The guardian's counting of summaries: what cannot be counted is dropped, once said, and stops nothing else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from celery_guardrails.errors import StoreError
from celery_guardrails.figures.summary import Summary
from celery_guardrails.guardian import figures as counting
from celery_guardrails.guardian.figures import FigureCounting, Reconciliation
from celery_guardrails.store import figure_query, reconcile
from celery_guardrails.store.engine import Store
from celery_guardrails.store.figure_beside import Beside, beside
from celery_guardrails.transport.consumer import ConsumerLost, ConsumerRefused, Delivery
from tests.contract.store.conftest import NOW, Mortuary
from tests.contract.store.test_figure import summary

HOUR = timedelta(hours=1)


class Source:
    """A queue in memory. `error` is raised in place of the next batch."""

    def __init__(self, *bodies: bytes) -> None:
        self.waiting = list(bodies)
        self.taken: list[bytes] = []
        self.error: Exception | None = None

    def receive(self, most: int, wait: float) -> list[Delivery]:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        batch, self.waiting = self.waiting[:most], self.waiting[most:]
        self.taken += batch
        message: Any = None
        return [Delivery("t.figures", body, "application/json", {}, message) for body in batch]

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        for each in deliveries:
            self.taken.remove(each.body)

    def close(self) -> None:
        self.waiting, self.taken = [*self.taken, *self.waiting], []


def counted(store: Store) -> int:
    with store.read() as conn:
        return sum(each.attempts for each in figure_query.between(conn, NOW - HOUR, NOW + HOUR).values())


WRONG = [b"", b"no json", b"[]", b'{"v": 1}', b'{"v": 2}', b"\xff", b'{"v": 1, "id": "x", "tasks": 3}', b"[" * 100_000]


def test_what_is_no_summary_is_dropped_and_said_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    source = Source(summary().encode(), *WRONG, summary().encode())
    service = FigureCounting(store, source)
    service.run_once(NOW, flush=False)
    assert (counted(store), service.counted, service.dropped) == (2, 2, {"unreadable": len(WRONG)})
    assert (source.waiting, source.taken) == ([], [])
    assert caplog.text.count("a summary of figures is dropped") == 1


def test_what_came_late_is_dropped_and_said(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    service = FigureCounting(store, Source(summary(NOW - 7 * HOUR).encode(), summary().encode()))
    service.run_once(NOW, flush=True)
    assert (service.counted, service.dropped) == (1, {"late": 1})
    assert "the period is over for hours" in caplog.text


def test_a_summary_that_the_archive_refuses_keeps_no_other_from_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = counting.count

    def picky(conn: Any, summaries: Sequence[Summary], now: Any) -> Any:
        if any(each.worker == "odd" for each in summaries):
            raise ValueError("no such worker")
        return real(conn, summaries, now)

    monkeypatch.setattr(counting, "count", picky)
    found = [summary(worker="odd" if number == 37 else "w") for number in range(100)]
    service = FigureCounting(store, Source(*(each.encode() for each in found)))
    service.run_once(NOW, flush=False)
    assert (counted(store), service.dropped) == (99, {"refused": 1})
    assert "no such worker" in caplog.text


def test_while_the_archive_is_away_the_summaries_stay_in_their_queue(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise StoreError("the archive", "locked", away=True)

    source = Source(*(summary().encode() for _ in range(3)))
    service = FigureCounting(store, source)
    with monkeypatch.context() as patch:
        patch.setattr(counting, "count", away)
        with pytest.raises(StoreError):
            service.run_once(NOW, flush=False)
    assert (len(source.waiting), counted(store), service.dropped) == (3, 0, {})
    service.run_once(NOW, flush=False)
    assert (len(source.waiting), counted(store)) == (0, 3)


def test_a_broker_that_is_away_is_asked_again_later_and_one_that_refuses_is_said(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(summary().encode())
    service = FigureCounting(store, source)
    source.error = ConsumerLost("gone")
    service.run_once(NOW, flush=False)
    assert caplog.text == ""
    service.run_once(NOW, flush=False)
    assert service.counted == 0
    source.error = ConsumerRefused("no right to read t.figures")
    service.run_once(NOW + HOUR, flush=False)
    assert "the broker refuses their queue to this guardian: no right to read t.figures" in caplog.text
    service.run_once(NOW + 2 * HOUR, flush=False)
    assert service.counted == 1


def test_a_turn_ends_although_more_comes_all_the_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "BATCH", 2)
    monkeypatch.setattr(counting, "_BATCHES_AT_ONCE", 3)
    source = Source(*(summary().encode() for _ in range(20)))
    FigureCounting(store, source).run_once(NOW, flush=False)
    assert len(source.waiting) == 14


def test_a_death_that_was_counted_and_is_not_archived_is_looked_for(mortuary: Mortuary) -> None:
    store, letter = mortuary.store, mortuary.letter()
    one = summary()
    one.note_dead(letter.id, letter.task)
    FigureCounting(store, Source(one.encode())).run_once(NOW, flush=False)
    depth = [0]
    service = Reconciliation(store, lambda: depth[0])

    def missing(minutes: int) -> int:
        now = NOW + timedelta(minutes=minutes)
        service.run_once(now, flush=False)
        with store.read() as conn:
            return sum(each.count for each in reconcile.unreconciled(conn, now, timedelta(minutes=3)))

    assert [missing(minute) for minute in range(5)] == [0, 0, 0, 1, 1]
    depth[0] = 10_000  # it may be among them
    assert [missing(minute) for minute in (5, 6)] == [0, 0]
    depth[0] = 199
    assert [missing(minute) for minute in (7, 8, 9)] == [0, 0, 1]
    mortuary.archive(letter)
    assert missing(10) == 0


def test_a_broker_that_does_not_answer_makes_no_death_missing(mortuary: Mortuary) -> None:
    def away() -> int:
        raise ConsumerLost("gone")

    one = summary()
    one.note_dead(mortuary.letter().id, "shop.mail")
    FigureCounting(mortuary.store, Source(one.encode())).run_once(NOW, flush=False)
    minute = timedelta(minutes=1)
    for number in range(5):
        Reconciliation(mortuary.store, away).run_once(NOW + number * minute, flush=False)
    with mortuary.store.read() as conn:
        assert reconcile.unreconciled(conn, NOW + 4 * minute, minute) == []


def test_what_a_summary_had_no_room_for_is_counted_once(store: Store) -> None:
    more = summary()
    more.others, more.dead_unlisted, more.no_guardian = 3, 2, 1
    source = Source(more.encode(), more.encode())
    FigureCounting(store, source).run_once(NOW, flush=False)
    with store.read() as conn:
        assert beside(conn, more.environment) == Beside(3, 2, 1)
        assert beside(conn, "another") == Beside()
