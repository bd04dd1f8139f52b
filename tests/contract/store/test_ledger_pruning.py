"""The guardian's pruning of a ledger in a database: what is past its time goes in steps, what is not stays."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text, update

from celery_guardrails import clock
from celery_guardrails.guardian.pruning import LedgerPruning
from celery_guardrails.idempotency.key import key_of_text
from celery_guardrails.idempotency.ledger import Begun, Result, Run
from celery_guardrails.store.engine import Store
from celery_guardrails.store.ledger import SqlLedger
from celery_guardrails.store.ledger_table import ledger as table
from tests.waiting import wait_until

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def fill(store: Store, count: int, name: str, *, state: str, until: timedelta) -> None:
    """Put entries into the ledger whose time is over in `until`."""
    now = clock.now()
    row = {"environment": "e", "scope": "s", "state": state, "fence": 1, "owner": "o", "work": "w", "turn": 0,
           "arguments": "", "task": "t", "task_id": "i", "began_at": now, "until": now + until, "done_at": None,
           "kept": "none", "body": b"", "content_type": ""}  # fmt: skip
    with store.begin() as conn:
        conn.execute(
            table.insert(), [{**row, "digest": f"{name} {number}", "text": f"{number}"} for number in range(count)]
        )


def kept(store: Store) -> dict[str, int]:
    """How many entries of each name are there."""
    with store.read() as conn:
        digests = list(conn.execute(select(table.c.digest)).scalars())
    names = [digest.rpartition(" ")[0] for digest in digests]
    return {name: names.count(name) for name in names}


def test_what_is_past_its_time_goes_and_the_rest_stays(store: Store, url: str) -> None:
    fill(store, 2, "done, over", state="done", until=-HOUR)
    fill(store, 2, "done", state="done", until=HOUR)
    fill(store, 2, "running", state="running", until=HOUR)
    fill(store, 2, "vanished", state="running", until=-HOUR)
    fill(store, 2, "freed", state="free", until=-HOUR)
    fill(store, 2, "vanished long ago", state="running", until=-2 * DAY)
    fill(store, 2, "freed long ago", state="free", until=-2 * DAY)
    pruning = LedgerPruning(url)
    pruning.run_once(clock.now(), flush=False)
    pruning.close()
    assert kept(store) == {"done": 2, "running": 2, "vanished": 2, "freed": 2}
    assert pruning.every == HOUR


def test_a_pass_is_bounded_and_the_next_one_comes_soon(
    store: Store, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store, 1700, "over", state="done", until=-HOUR)
    ticks = iter([0.0, 0.1, 0.6, 10.0, 10.1, 20.0])
    pruning = LedgerPruning(url, timer=lambda: next(ticks))
    with caplog.at_level(logging.INFO, "celery_guardrails.guardian"):
        pruning.run_once(clock.now(), flush=False)
        assert kept(store) == {"over": 700}
        assert pruning.every == timedelta(seconds=2)
        assert caplog.messages == []
        pruning.run_once(clock.now(), flush=False)
    pruning.close()
    assert kept(store) == {}
    assert pruning.every == HOUR
    assert caplog.messages == ["ledger: removed 1,700 entries"]


def test_a_guardian_that_ends_goes_on_for_some_passes(store: Store, url: str) -> None:
    fill(store, 1200, "over", state="done", until=-HOUR)
    ticks = iter(range(100))
    pruning = LedgerPruning(url, timer=lambda: float(next(ticks)))
    pruning.run_once(clock.now(), flush=True)
    pruning.close()
    assert kept(store) == {}


def test_a_ledger_that_is_away_is_logged_once_and_asked_again(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pruning = LedgerPruning(f"sqlite:///{tmp_path / 'nowhere' / 'ledger.db'}")
    for _ in range(3):
        pruning.run_once(clock.now(), flush=False)
    assert len(caplog.messages) == 1
    assert "stays in the ledger for now" in caplog.text
    assert pruning.every == HOUR


def test_work_that_is_begun_anew_meanwhile_stays(store: Store, url: str) -> None:
    key, run = key_of_text("e", "s", "order-4711"), Run("run-2", "work-2", 0, "t", "id-2")
    ledger = SqlLedger(url)
    assert ledger.begin(key, Run("run-1", "work-1", 0, "t", "id-1"), "", HOUR) == Begun(1)
    assert ledger.finish(key, "run-1", Result(), timedelta(0))
    if store.engine.dialect.name == "sqlite":  # whoever writes has the database for itself
        assert ledger.begin(key, run, "", HOUR) == Begun(2)
        assert ledger.prune() == 0
    else:
        removed: list[int] = []
        pruner = threading.Thread(target=lambda: removed.append(ledger.prune()))
        with store.begin() as conn:  # as `begin` does, but not committed yet
            anew = {"state": "running", "until": clock.now() + HOUR, "fence": 2}
            conn.execute(update(table).where(table.c.digest == key.digest).values(**anew))
            pruner.start()
            wait_until(lambda: _waits_for_a_lock(store), 30, "the pruning that waits for the row")
        pruner.join(30)
        assert removed == [0]
    assert ledger.entry(key) is not None
    ledger.close()


def _waits_for_a_lock(store: Store) -> bool:
    query = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE%'")
    with store.engine.connect() as conn:
        return bool(conn.execute(query).scalar_one())
