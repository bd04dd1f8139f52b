"""Figures on real brokers: what a worker sends a guardian counts, once, and a letter that was purged is named."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest

from celery_guardrails import clock
from celery_guardrails.errors import StoreError
from celery_guardrails.figures.summary import Summary, TaskFigures
from celery_guardrails.guardian.figures import FigureCounting, Reconciliation
from celery_guardrails.letters.record import Letter
from celery_guardrails.store import figure_query, reconcile
from celery_guardrails.store.engine import open_store
from celery_guardrails.transport.consumer import DeadLetterConsumer, waiting
from celery_guardrails.transport.figures import FiguresSender, declared_figures_queue, figures_queue
from tests.integration.guardian.bench import QUEUE, Bench, letter
from tests.waiting import wait_until

HOUR = timedelta(hours=1)


def summary(*dead: Letter, attempts: int = 1) -> Summary:
    now = clock.now().timestamp()
    made = Summary(str(uuid4()), "production", "w@host", 7, now - 10, now)
    made.tasks["shop.mail"] = TaskFigures(outcomes={"succeeded": attempts})
    for each in dead:
        made.note_dead(each.id, each.task)
    return made


@pytest.fixture
def sender(bench: Bench) -> Iterator[FiguresSender]:
    made = FiguresSender(bench.app, QUEUE, timeout=20.0)
    yield made
    made.close()


@pytest.fixture
def figures(bench: Bench) -> Iterator[FigureCounting]:
    made = FigureCounting(bench.store, DeadLetterConsumer(bench.app, [declared_figures_queue(QUEUE)]))
    yield made
    made.close()


def counted(bench: Bench) -> int:
    now = clock.now()
    with bench.store.read() as conn:
        return sum(each.attempts for each in figure_query.between(conn, now - HOUR, now + HOUR).values())


def test_a_guardian_counts_what_workers_send(bench: Bench, sender: FiguresSender, figures: FigureCounting) -> None:
    twice = summary().encode()
    for body in (twice, twice, b"no summary", *(summary(attempts=2).encode() for _ in range(150))):
        assert sender.send(body)
    guardian = bench.guardian(figures)
    with bench.running(guardian):
        wait_until(lambda: counted(bench) == 301, 60, lambda: f"301 attempts, there are {counted(bench)}")
        wait_until(lambda: waiting(bench.app, [figures_queue(QUEUE)]) == 0, 30, "an empty queue")
    assert figures.dropped == {"unreadable": 1}


def test_once_counts_what_waits(bench: Bench, sender: FiguresSender, figures: FigureCounting) -> None:
    for _ in range(20):
        sender.send(summary().encode())
    wait_until(lambda: waiting(bench.app, [figures_queue(QUEUE)]) == 20, 30, "20 summaries in their queue")
    bench.sender.send(letter(1))
    assert bench.guardian(figures).run_once().archived == 1
    assert counted(bench) == 20


def test_what_is_not_counted_stays_in_its_queue(bench: Bench, sender: FiguresSender, figures: FigureCounting) -> None:
    for _ in range(3):
        sender.send(summary().encode())
    bench.impatient()
    blocker = open_store(f"sqlite:///{bench.path}")
    refused = threading.Event()

    def is_refused() -> bool:
        try:
            figures.run_once(clock.now(), flush=True)
        except StoreError:
            refused.set()
        return refused.is_set()

    with blocker.begin():
        wait_until(is_refused, 30, "the archive's refusal")
    blocker.close()
    wait_until(lambda: waiting(bench.app, [figures_queue(QUEUE)]) == 3, 30, "the summaries back in their queue")
    figures.run_once(clock.now(), flush=True)
    assert counted(bench) == 3


def test_a_letter_that_was_purged_by_hand_is_named_and_no_other(
    bench: Bench, sender: FiguresSender, figures: FigureCounting
) -> None:
    purged, there = letter(1), letter(2)
    bench.sender.send(purged)
    with bench.app.connection_for_write() as connection:
        wait_until(lambda: bench.waiting() == 1, 30, "the letter in its queue")
        connection.default_channel.queue_purge(QUEUE)
    for each in (there, there):  # delivered twice
        bench.sender.send(each)
    sender.send(summary(purged, there).encode())
    reconciliation = Reconciliation(bench.store, bench.waiting)
    with bench.running(bench.guardian(figures, reconciliation)):
        wait_until(lambda: counted(bench) == 1 and bench.count() == 1, 60, "the summary and the letter")
    start = clock.now()
    for minutes in range(12):
        reconciliation.run_once(later := start + timedelta(minutes=minutes), flush=False)
    with bench.store.read() as conn:
        (missing,) = reconcile.unreconciled(conn, later, HOUR / 6)
    assert (missing.task, missing.count, missing.ids) == ("shop.mail", 1, (purged.id,))
    bench.sender.send(purged)  # from a spool, say
    bench.guardian().run_once()
    with bench.store.read() as conn:
        assert reconcile.unreconciled(conn, later, HOUR / 6) == []
