"""Work that was acknowledged early, and a worker that is killed as a whole: it becomes a letter, from the journal."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from celery_guardrails.letters.record import Letter
from celery_guardrails.transport.journal.abandoned import Journals
from tests.conftest import Broker
from tests.guarded import Guarded
from tests.harness import Process
from tests.waiting import wait_until

POOLS = ["prefork", "threads", "solo", "gevent"]


def folder(losing: Guarded) -> Path:
    return losing.runs_folder / "spool" / "journal"


def journals(losing: Guarded) -> Journals:
    return Journals(folder(losing).parent, "losing")


def kept(losing: Guarded) -> list[str]:
    """The files that hold a message now, whosever they are."""
    return [str(path) for path in folder(losing).rglob("*.entry") if path.read_bytes()[:1] not in (b"", b"F")]


def wait_until_nothing_is_kept(losing: Guarded) -> None:
    wait_until(lambda: not kept(losing), 30, lambda: f"an empty journal, there are {kept(losing)}")


def kill(process: Process) -> None:
    """End the worker and all its children at once, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def is_lost(letter: Letter, task_id: str) -> None:
    assert (letter.task_id, letter.reason.value) == (task_id, "worker_lost")
    assert "may have run already" in letter.explanation
    assert letter.failure.category.value == "worker_lost"
    assert letter.queue
    assert letter.message.headers["id"] == task_id


@pytest.mark.parametrize("pool", POOLS)
def test_what_a_killed_worker_ran_is_a_letter_of_the_next(losing: Guarded, pool: str) -> None:
    worker = losing.worker("-c", "1", pool=pool)
    task = losing.tasks.until_go.delay("killed")
    losing.wait_for_runs("killed", 1)
    assert len(kept(losing)) == 1
    kill(worker)
    losing.worker("-c", "1", pool=pool)
    is_lost(losing.letter(), task.id)
    (losing.runs_folder / "go").touch()
    losing.finish()
    losing.no_more_letters(1)
    assert len(losing.runs("killed")) == 1
    assert losing.letter().preview.args == "('killed',)" or "killed" in losing.letter().preview.args
    wait_until_nothing_is_kept(losing)


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_killed_worker_had_acknowledged_no_more_than_it_can_run(losing: Guarded, pool: str) -> None:
    """What waits for a free child or thread is with the broker, and runs elsewhere."""
    keys = [f"key-{number}" for number in range(40)]
    worker = losing.worker("-c", "2", pool=pool)
    for key in keys:
        losing.tasks.until_go.delay(key)
    wait_until(lambda: sum(bool(losing.runs(key)) for key in keys) == 2, 30, "two to run")
    one_ahead = 1 if pool == "gevent" else 0  # its main greenlet waits with the third in hand
    allowed = 3 if one_ahead else 8
    wait_until(lambda: worker.log().count("received") >= allowed, 30, "the worker to have all that it may")
    for _ in range(0 if one_ahead else 3):
        losing.app.control.ping(timeout=1)
    kill(worker)
    acknowledged = len(kept(losing))
    assert 2 <= acknowledged <= 2 + one_ahead
    (losing.runs_folder / "go").touch()
    losing.worker("-c", "2", pool=pool)
    lost = losing.letters(acknowledged)
    ran = 40 - (acknowledged - 2)  # what waited in the killed worker's hand has not
    wait_until(lambda: sum(bool(losing.runs(key)) for key in keys) >= ran, 60, "the others to run")
    losing.no_more_letters(acknowledged)
    assert {letter.reason.value for letter in lost} == {"worker_lost"}
    assert max(len(losing.runs(key)) for key in keys) == 1
    wait_until_nothing_is_kept(losing)


def test_a_guardian_finds_it_when_no_worker_comes(losing: Guarded) -> None:
    worker = losing.worker("-c", "1")
    task = losing.tasks.until_go.delay("killed")
    losing.wait_for_runs("killed", 1)
    kill(worker)
    done = losing.harness.run(f"tests.apps.{losing.module}", "guardian", "--once", "--json")
    assert '"archived": 1' in done.stdout, done.stderr
    shown = losing.harness.run(f"tests.apps.{losing.module}", "guardrails", "dlq", "list", "--json")
    assert task.id in shown.stdout
    assert list(folder(losing).iterdir()) == []


def test_a_worker_that_is_frozen_is_not_dead(losing: Guarded) -> None:
    worker = losing.worker("-c", "1")
    losing.tasks.until_go.delay("frozen")
    losing.wait_for_runs("frozen", 1)
    os.killpg(worker.pid, signal.SIGSTOP)
    done = losing.harness.run(f"tests.apps.{losing.module}", "guardian", "--once", "--json")
    assert '"archived": 0' in done.stdout, done.stderr
    assert len(kept(losing)) == 1
    os.killpg(worker.pid, signal.SIGCONT)
    (losing.runs_folder / "go").touch()
    wait_until_nothing_is_kept(losing)
    losing.no_letters()


ENDS = {
    "return": None,
    "bug": "permanent_error",
    "exit": "permanent_error",
    "strange": "permanent_error",
    "kill_child": "worker_lost",
    "reject": "rejected",
    "unserialisable": "result_unstorable",
}


@pytest.mark.parametrize("pool", POOLS)
def test_every_end_removes_the_entry_and_a_worker_that_ends_leaves_none(losing: Guarded, pool: str) -> None:
    worker = losing.worker("-c", "2", pool=pool)
    wanted = []
    for how, reason in ENDS.items():
        if how != "kill_child" or pool == "prefork":
            task = losing.tasks.early.delay(how, how)
            wanted += [(task.id, reason)] if reason else []
    losing.tasks.held_early.delay("again", "retry")
    (losing.runs_folder / "go").touch()
    letters = losing.letters(len(wanted))
    assert sorted((letter.task_id, letter.reason.value) for letter in letters) == sorted(wanted)
    losing.wait_for_runs("again", 2)
    wait_until_nothing_is_kept(losing)
    assert worker.stop() == 0
    assert list(folder(losing).iterdir()) == []
    assert "Traceback" not in worker.log().partition("stays in the journal")[2]
    losing.worker("-c", "1", pool=pool)
    losing.no_more_letters(len(wanted))


def test_a_hard_limit_and_a_person_who_terminates_remove_the_entry(losing: Guarded) -> None:
    losing.worker("-c", "2")
    revoked = losing.tasks.until_go.delay("revoked")
    losing.wait_for_runs("revoked", 1)
    losing.app.control.revoke(revoked.id, terminate=True)
    limited = losing.tasks.early.apply_async(("limited", "hang"), time_limit=1)
    letter = losing.letter()
    assert (letter.task_id, letter.reason.value) == (limited.id, "time_limit")
    wait_until_nothing_is_kept(losing)
    losing.no_more_letters(1)


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_cold_shutdown_makes_one_letter(losing: Guarded, pool: str) -> None:
    worker = losing.worker("-c", "1", pool=pool)
    task = losing.tasks.until_go.delay("cut")
    losing.wait_for_runs("cut", 1)
    worker.signal(signal.SIGQUIT)
    worker.wait(40)
    losing.worker("-c", "1", pool=pool)
    letter = losing.letter()
    assert letter.task_id == task.id
    # on gevent with RabbitMQ Celery's own handler may fail before it comes to us: then the journal has it
    assert letter.reason.value in ("cancelled", "worker_lost")
    assert len(losing.runs("cut")) == 1
    wait_until_nothing_is_kept(losing)
    losing.no_more_letters(1)


def received(worker: Process, task_id: str) -> int:
    return worker.log().count(f"[{task_id}] received")


@pytest.mark.parametrize("pool", POOLS)
def test_what_cannot_be_kept_does_not_begin_until_it_can(losing: Guarded, pool: str) -> None:
    folder(losing).parent.mkdir()
    folder(losing).touch()  # a file where the directory should be: root, too, cannot write there
    worker = losing.worker("-c", "2", pool=pool)
    began = time.monotonic()
    tasks = {key: losing.tasks.early.delay(key, "return") for key in ("one", "two", "three")}
    worker.wait_for_log("do not begin, and go back to their queue")
    wait_until(lambda: max(received(worker, task.id) for task in tasks.values()) > 1, 60, "one that came again")
    losing.finish()  # what is acknowledged late is not held up
    for task in tasks.values():
        assert received(worker, task.id) <= 2 + (time.monotonic() - began) / 5
    assert worker.log().count("do not begin, and go back") == 1
    assert [losing.runs(key) for key in tasks] == [[]] * 3
    folder(losing).unlink()
    for key in tasks:
        losing.wait_for_runs(key, 1, 90)
    losing.no_letters()
    assert [len(losing.runs(key)) for key in tasks] == [1] * 3
    assert "begin again" in worker.log()
    wait_until_nothing_is_kept(losing)
    assert "Traceback" not in worker.log()


def test_with_the_journal_off_nothing_is_kept(losing: Guarded, harness: Any) -> None:
    spool = {"queue": f"{losing.prefix}.dead", "spool_dir": str(folder(losing).parent), "journal": False}
    harness.environment["GUARDED_SETTINGS"] = json.dumps({"dead_letter": spool})
    losing.worker("-c", "1")
    losing.tasks.until_go.delay("bare")
    losing.wait_for_runs("bare", 1)
    assert kept(losing) == []
    (losing.runs_folder / "go").touch()
    losing.finish()


@pytest.mark.own_servers
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_letter_that_nobody_took_stays_in_the_journal_until_it_is_taken(
    broker: Broker, losing: Guarded, harness: Any, pool: str
) -> None:
    spool = {"queue": f"{losing.prefix}.dead", "spool_dir": str(folder(losing).parent), "spool_limit": 1,
             "publish_timeout": 1}  # fmt: skip
    losing.once_each()
    harness.environment["GUARDED_SETTINGS"] = json.dumps({"dead_letter": spool})
    worker = losing.worker("-c", "1", pool=pool)
    task = losing.tasks.failing_early.delay("unkept")
    losing.wait_for_runs("unkept", 1)
    broker.server.stop()
    (losing.runs_folder / "go").touch()
    worker.wait_for_log("is not taken")  # a main process that looks for its broker does not hear of its children
    assert len(kept(losing)) == 1
    broker.server.start()
    letter = losing.letter()
    assert (letter.task_id, letter.reason.value) == (task.id, "permanent_error")
    wait_until_nothing_is_kept(losing)
    losing.no_more_letters(1)
