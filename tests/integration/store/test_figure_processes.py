"""Two processes add figures to one archive at the same time: no count is lost, none is doubled."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from celery_guardrails import clock
from celery_guardrails.store import figure_query
from celery_guardrails.store.engine import open_store
from celery_guardrails.store.figure import HOUR
from tests.archive import migrated_file
from tests.integration.store.adding import TASKS

SCRIPT = Path(__file__).with_name("adding.py")
NUMBER = 60
SHARED = 20
"""Summaries that both processes bring."""


def _add_at_once(url: str) -> list[int]:
    """Two processes, each with its summaries; returns their exit codes."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), url, str(first), str(NUMBER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (0, NUMBER - SHARED)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [process.wait(120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def test_no_count_is_lost_between_two_processes(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if kind == "sqlite":
        url = migrated_file(tmp_path / "archive.sqlite3")
    else:
        url = str(request.getfixturevalue("migrated_postgresql_url"))
    assert _add_at_once(url) == [0, 0]
    wanted = {("production", task): {"succeeded": 2 * NUMBER - SHARED} for task in TASKS}
    store, now = open_store(url), clock.now()
    with store.read() as conn:
        minutes = figure_query.between(conn, now - timedelta(hours=1), now + timedelta(minutes=1))
        hours = figure_query.between(conn, now - timedelta(hours=2), now + timedelta(minutes=1), resolution=HOUR)
        totals = {(each.environment, each.task): each.figures.outcomes for each in figure_query.totals(conn)}
    store.close()
    for found in ({key: each.outcomes for key, each in each.items()} for each in (minutes, hours)):
        assert found == wanted
    assert totals == wanted
