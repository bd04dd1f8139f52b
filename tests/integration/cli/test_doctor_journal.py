"""What `doctor` says of the journal: what dead workers left, whose process still runs, and where none is kept."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from celery import Celery

from celery_guardrails import GuardedTask, Policy
from celery_guardrails.cli.doctor.checks import journal
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, Level
from celery_guardrails.cli.project import Project
from tests.integration.transport.test_journal import dead


def found(folder: Path, acks: str = "early", **settings: object) -> list[Finding]:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.guardrails = {"dead_letter": {"spool_dir": str(folder), **settings}}

    @app.task(shared=False, base=GuardedTask, name="shop.mail", policy=Policy(acks=acks))  # type: ignore[arg-type]
    def send() -> None: ...

    try:
        return list(journal.entries(Context(Project(app), online=False)))
    finally:
        app.close()


def test_where_all_is_well(tmp_path: Path) -> None:
    (finding,) = found(tmp_path)
    assert finding.level is Level.OK
    assert "dead workers left nothing" in finding.found
    assert found(tmp_path, acks="late") == []


def test_what_dead_workers_left_is_counted_whatever_the_tasks_are(tmp_path: Path) -> None:
    dead(tmp_path, "a", "b")
    for acks in ("early", "late"):
        (finding,) = found(tmp_path, acks)
        assert finding.level is Level.WARNING
        assert "2 tasks that dead workers had acknowledged early" in finding.found
        assert "start a worker or guardian" in finding.fix


def test_a_process_that_outlives_its_worker_is_named(tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from celery_guardrails.transport.journal.journal import Journal
        from tests.integration.transport.journaling import taken

        Journal(tmp_path, 1 << 20, "shop").keep(taken("a"))
        child = os.fork()
        if not child:
            signal.pause()
        (tmp_path / "child").write_text(str(child))
        os._exit(0)
    os.waitpid(pid, 0)
    try:
        (finding,) = found(tmp_path)
        assert f"worker w1@host (pid {pid}) is dead, but a process that it started still runs" in finding.found
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_a_journal_that_is_off_or_cannot_be_read(tmp_path: Path) -> None:
    (off,) = found(tmp_path, journal=False)
    assert (off.level, "dead_letter.journal is off" in off.found, "shop.mail" in off.found) == (
        Level.WARNING, True, True,
    )  # fmt: skip
    (tmp_path / "journal").touch()
    (broken,) = found(tmp_path)
    assert broken.level is Level.FAULT
    assert "cannot be read" in broken.found


def test_what_could_not_be_read_is_named(tmp_path: Path) -> None:
    path = dead(tmp_path, "a")
    (entry,) = path.glob("*.entry")
    entry.rename(tmp_path / "journal" / "x.shop-000001.entry.unreadable")
    (finding,) = found(tmp_path)
    assert "1 unreadable file set aside" in finding.found
