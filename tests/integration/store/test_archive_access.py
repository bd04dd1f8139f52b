"""Who may read the files of an SQLite archive: their owner alone, whatever the umask is. What is there is left."""

from __future__ import annotations

import logging
import os
import pwd
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from celery import Celery

from celery_guardrails import access
from celery_guardrails.cli.daemon.assembly import assembled
from celery_guardrails.cli.daemon.command import serve
from celery_guardrails.cli.project import Project
from celery_guardrails.store.engine import open_store, sqlite_file, sqlite_files
from tests.harness import ROOT
from tests.integration.acting import NOBODY, as_user, needs_root, public_folder

ARCHIVED = """
import os, sys, time
os.umask(int(sys.argv[2], 8))
from celery_guardrails.store.engine import open_store
store = open_store(sys.argv[1]).ready()
with store.begin() as conn:
    conn.exec_driver_sql("INSERT INTO guardrails_audit_cut VALUES (1)")
print("written", flush=True)
sys.stdin.read()
"""


def modes(path: Path) -> dict[str, str]:
    return {each.name: f"{stat.S_IMODE(each.stat().st_mode):o}" for each in sorted(path.parent.iterdir())}


@pytest.mark.parametrize("umask", ["000", "022", "077", "777"])
@pytest.mark.parametrize("form", ["sqlite:///{}", "sqlite:///file:{}?uri=true"])
def test_a_new_archive_is_for_its_owner_alone(tmp_path: Path, umask: str, form: str) -> None:
    """With the files that SQLite keeps beside it while somebody has it open."""
    path = tmp_path / "a" / "archive.db"
    path.parent.mkdir()
    url = form.format(path)
    with subprocess.Popen(
        [sys.executable, "-c", ARCHIVED, url, umask],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "written\n"
        assert modes(path) == {"archive.db": "600", "archive.db-shm": "600", "archive.db-wal": "600"}
        child.communicate()
    assert child.returncode == 0
    assert sqlite_file(url) == path
    assert open_store(url, create=False).check() == "current"


def test_the_journal_of_a_transaction_has_the_archives_mode(tmp_path: Path) -> None:
    path = tmp_path / "archive.db"
    assert access.make_file(path)
    assert not access.make_file(path)
    before = os.umask(0)
    try:
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA journal_mode = DELETE")
            database.execute("CREATE TABLE t (a)")
            database.execute("INSERT INTO t VALUES (1)")
            assert modes(path) == {"archive.db": "600", "archive.db-journal": "600"}
    finally:
        os.umask(before)


def test_a_link_leads_to_a_file_that_is_private_too(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "archive.db")
    before = os.umask(0)
    try:
        open_store(f"sqlite:///{tmp_path / 'link.db'}").ready().close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "archive.db").stat().st_mode) == 0o600


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    """An archive that an earlier version has made: everybody may read it."""
    path = tmp_path / "archive.db"
    open_store(f"sqlite:///{path}").ready().close()
    path.chmod(0o644)
    return path


def test_a_guardian_leaves_an_older_archive_as_it_is_and_says_what_to_type(
    loose: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    app = Celery("shop", broker="memory://", set_as_current=False)
    settings = {"store": {"url": f"sqlite:///{loose}"}, "dead_letter": {"spool_dir": str(tmp_path / "spool")}}
    app.conf.guardrails = settings
    stop = threading.Event()
    stop.set()
    serve(Project(app), stop)
    (line,) = [said for said in caplog.messages if said.startswith("archive: ")]
    assert line.startswith(
        f"archive: {loose} can be read by others than its owner (mode 0644), like 2 more beside it. Type: "
    )
    assert line.endswith(f"Type: chmod 600 {loose} {loose}-wal {loose}-shm")
    assert stat.S_IMODE(loose.stat().st_mode) == 0o644
    loose.chmod(0o600)
    with assembled(Project(app)) as assembly:
        assert assembly.cautions() == []
    app.close()


def test_the_files_of_an_archive_are_looked_at_each(loose: Path) -> None:
    for name in ("archive.db-wal", "archive.db-shm"):
        (loose.parent / name).touch(0o640)
        (loose.parent / name).chmod(0o640)
    (found,) = access.exposure(sqlite_files(loose))
    assert found.reason == "can be read by others than its owner (mode 0644), like 2 more beside it"
    assert found.fix == f"chmod 600 {loose} {loose}-wal {loose}-shm"


def test_a_foreign_owner_is_named() -> None:
    """By its own user, and by root, who sees whose directory it is."""
    needs_root()
    with public_folder() as folder:
        path = folder / "archive.db"
        path.touch(0o600)
        assert access.exposure([path]) == []
        told = "belongs to root, not to nobody"
        fix = f"chown nobody {path}"

        def seen() -> list[list[str]]:
            return [[each.reason, each.fix] for each in access.exposure([path])]

        assert as_user(NOBODY, seen) == [[told, fix]]
        os.chown(folder, NOBODY, NOBODY)
        os.chown(path, NOBODY, NOBODY)
        assert seen() == as_user(NOBODY, seen) == []
        os.chown(path, pwd.getpwnam("daemon").pw_uid, -1)
        assert seen() == [["belongs to daemon, not to nobody", fix]]


def test_a_group_of_the_owner_alone_is_nobody_else() -> None:
    """What a volume of Kubernetes makes of a file; but root's group may have other members."""
    needs_root()
    with public_folder() as folder:
        path = folder / "archive.db"
        path.touch()
        path.chmod(0o660)
        assert [each.fix for each in access.exposure([path])] == [f"chmod 600 {path}"]
        for owned in (folder, path):
            os.chown(owned, 54321, 54321)

        def seen() -> list[str]:
            return [each.fix for each in access.exposure([path])]

        assert as_user(54321, seen, gid=54321) == []
        assert as_user(54321, seen) == [f"chmod 600 {path}"]
