"""What `doctor` says of who else may read the archive, and write the spool and the journal: with the line to type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery

from celery_guardrails.cli.doctor.checks import archive, journal, spool
from celery_guardrails.cli.doctor.context import Context
from celery_guardrails.cli.doctor.finding import Finding, Level
from celery_guardrails.cli.project import Project
from celery_guardrails.store.engine import open_store
from celery_guardrails.transport.spool import Spool
from tests.integration.acting import needs_root, public_folder
from tests.integration.transport.spooling import LIMIT, entry
from tests.integration.transport.test_journal import dead

Check = Callable[[Context], Iterator[Finding]]


@pytest.fixture
def folder() -> Iterator[Path]:
    needs_root()
    with public_folder() as path:
        (path / "own").mkdir(0o755)
        yield path / "own"


def found(folder: Path, check: Check) -> list[tuple[Level, str, str]]:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.guardrails = {
        "store": {"url": f"sqlite:///{folder / 'archive.db'}"},
        "dead_letter": {"spool_dir": str(folder / "spool")},
    }
    try:
        findings = list(check(Context(Project(app), online=False)))
    finally:
        app.close()
    return [(each.level, each.found, each.fix) for each in findings]


def test_of_a_set_up_as_it_should_be_nothing_is_wrong(folder: Path) -> None:
    assert found(folder, archive.access) == found(folder, spool.trusted) == []
    open_store(f"sqlite:///{folder / 'archive.db'}").ready().close()
    Spool(folder / "spool", LIMIT, "shop").put(entry(b"1"))
    assert [level for level, *_ in found(folder, archive.access)] == [Level.OK]
    assert found(folder, spool.trusted) == []


def test_an_archive_that_others_may_read_or_replace(folder: Path) -> None:
    path = folder / "archive.db"
    open_store(f"sqlite:///{path}").ready().close()
    path.chmod(0o666)
    folder.chmod(0o1777)
    (file, directory) = found(folder, archive.access)
    assert file == (
        Level.WARNING,
        f"{path} can be read by others than its owner (mode 0666); the arguments of dead letters are in it",
        f"chmod 600 {path}",
    )
    assert (directory[0], directory[2]) == (Level.WARNING, f"chmod o-w {folder}")
    assert "whoever writes there can replace the archive" in directory[1]


def test_a_spool_that_others_may_write(folder: Path) -> None:
    kept = Spool(folder / "spool", LIMIT, "shop")
    kept.put(entry(b"1"))
    kept.directory.chmod(0o777)
    assert found(folder, spool.trusted) == [
        (
            Level.FAULT,
            f"{kept.directory} can be written by every user (mode 0777): nothing of it is shipped to the broker",
            f"chmod 700 {kept.directory}",
        )
    ]
    for path in kept.directory.iterdir():
        path.unlink()
    assert found(folder, spool.directory) == []  # nothing is well with a directory that is a fault
    kept.directory.chmod(0o755)
    ((level, words, fix),) = found(folder, spool.trusted)
    assert (level, fix) == (Level.WARNING, f"chmod 700 {kept.directory}")
    assert "can be read by others than its owner (mode 0755)" in words


def test_entries_that_others_may_write_and_a_directory_above(folder: Path) -> None:
    kept = Spool(folder / "spool", LIMIT, "shop")
    paths = [kept.put(entry(b"%d" % number)) for number in range(5)]
    for path in paths:
        path.chmod(0o606)
    folder.chmod(0o777)
    (*shown, more, above) = found(folder, spool.trusted)
    assert [fix for _, _, fix in shown] == [f"chmod 600 {path}" for path in sorted(paths)[:3]]
    assert more[1] == "2 more are not trusted"
    assert (above[0], above[2]) == (Level.WARNING, f"chmod o-w {folder}")


def test_a_spool_that_is_a_link(folder: Path) -> None:
    (folder / "there").mkdir()
    (folder / "spool").symlink_to(folder / "there")
    ((level, words, fix),) = found(folder, spool.directory)
    assert (level, fix) == (Level.FAULT, f"name the directory itself: {folder / 'there'}")
    assert "is a link" in words
    assert "is a link" in found(folder, journal.entries)[0][1]


def test_a_journal_that_others_may_write(folder: Path) -> None:
    left = dead(folder / "spool", "a")
    left.chmod(0o722)
    (level, words, fix) = found(folder, journal.entries)[0]
    assert (level, fix) == (Level.FAULT, f"chmod 700 {left}")
    assert "what a dead worker left there does not become dead letters" in words
