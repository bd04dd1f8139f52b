"""What never began, because Celery's own machinery failed, is tried again, and is not the task's failure."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Harness
from tests.servers_postgres import PostgreSQLServer
from tests.waiting import wait_until

COUNT = 4


@pytest.fixture
def losing(redis_broker: Broker, harness: Harness, own_postgresql: PostgreSQLServer) -> Guarded:
    """The losing application, whose results go to a database that hears when a task starts."""
    backend = "db+" + own_postgresql.fresh_url().replace("postgresql:", "postgresql+psycopg:")
    harness.environment.update(TRACK_STARTED="1")
    return Guarded(harness, redis_broker.url, backend, {}, "losing")


def patient(losing: Guarded, attempts: int) -> dict[str, str]:
    """A worker's variables: so many attempts."""
    chosen = {"queue": f"{losing.prefix}.dead", "spool_dir": str(losing.runs_folder / "spool")}
    policies = {"guarded.slow": {"max_attempts": attempts}}
    return {"GUARDED_SETTINGS": json.dumps({"dead_letter": chosen, "policies": policies})}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_tasks_that_cannot_begin_wait_for_their_database(
    losing: Guarded, own_postgresql: PostgreSQLServer, pool: str
) -> None:
    worker = losing.worker("-c", "2", pool=pool, env=patient(losing, 1000))
    losing.finish()
    losing.rest()
    own_postgresql.stop()
    for number in range(COUNT):
        losing.tasks.slow.delay(f"key-{number}", 0)
    wait_until(lambda: worker.log().count("could not begin") >= 2 * COUNT, 60, "tasks that cannot begin, twice")
    log = worker.log()
    assert sum("WARNING" in line for line in log.splitlines() if "could not begin" in line) <= 2  # one in each process
    assert "outside body" not in log
    assert log.count("\nTraceback") <= 8  # one error in each process, with what caused it
    own_postgresql.start()
    for number in range(COUNT):
        losing.wait_for_runs(f"key-{number}.done", 1)
    losing.no_letters()
    assert [len(losing.runs(f"key-{number}")) for number in range(COUNT)] == [1] * COUNT


def test_tasks_that_never_begin_are_dead_when_their_attempts_are(
    losing: Guarded, own_postgresql: PostgreSQLServer
) -> None:
    worker = losing.worker("-c", "2", env=patient(losing, 2))
    losing.finish()
    losing.rest()
    own_postgresql.stop()
    ids = {losing.tasks.slow.delay(f"key-{number}", 0).id for number in range(COUNT)}
    letters = losing.letters(COUNT)
    assert {letter.task_id for letter in letters} == ids
    assert {letter.reason.value for letter in letters} == {"attempts_exhausted"}
    assert all("the body did not begin" in letter.explanation for letter in letters)
    assert [losing.runs(f"key-{number}") for number in range(COUNT)] == [[]] * COUNT
    assert worker.is_running
    assert worker.log().count("\nTraceback") <= 8
