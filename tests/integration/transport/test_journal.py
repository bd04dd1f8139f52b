"""The journal on a real disk: whose it is, what a killed process leaves in it, and what is wrong with a directory."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from celery_guardrails.errors import SpoolError
from celery_guardrails.transport.journal.abandoned import Journals
from celery_guardrails.transport.journal.journal import Journal
from celery_guardrails.transport.spool import Spool
from tests.harness import ROOT
from tests.integration.transport.journaling import taken
from tests.waiting import wait_until

SCRIPT = Path(__file__).with_name("journaling.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
LIMIT = 1 << 30


def found(journals: Journals) -> list[str]:
    """The ids of what dead workers left; it stays."""
    return [left.taken.headers["id"] for each in journals.abandoned() for left in each.entries()]


def emptied(journals: Journals) -> list[str]:
    """The same; it is removed."""
    ids = []
    for each in journals.abandoned():
        for left in each.entries():
            ids.append(left.taken.headers["id"])
            left.done()
        each.remove()
    return ids


def dead(folder: Path, *ids: str, app: str = "shop") -> Path:
    """The directory of a journal with these messages, whose process is dead."""
    pid = os.fork()
    if not pid:
        try:
            journal = Journal(folder, LIMIT, app)
            for task_id in ids:
                journal.keep(taken(task_id))
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    return max((folder / "journal").iterdir())


def test_a_journal_of_a_living_process_is_nobody_elses(tmp_path: Path) -> None:
    journal, journals = Journal(tmp_path, LIMIT, "shop"), Journals(tmp_path, "shop")
    slot = journal.keep(taken("a"))
    assert found(journals) == []
    assert (journals.status().alive, journals.status().entries) == (1, 0)
    slot.acknowledged()
    slot.done()
    journal.close()
    assert list((tmp_path / "journal").iterdir()) == []


def test_what_is_kept_when_a_worker_ends_stays_for_the_next(tmp_path: Path) -> None:
    journal, journals = Journal(tmp_path, LIMIT, "shop"), Journals(tmp_path, "shop")
    first, second = journal.keep(taken("a")), journal.keep(taken("b"))
    journal.close()
    first.done()
    assert found(journals) == []
    second.done()
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_child_of_a_dead_process_holds_its_journal(tmp_path: Path) -> None:
    """The task may still run there."""
    pid = os.fork()
    if not pid:
        journal = Journal(tmp_path, LIMIT, "shop")
        journal.keep(taken("a"))
        child = os.fork()
        if not child:
            signal.pause()
        (tmp_path / "child").write_text(str(child))
        os._exit(0)
    os.waitpid(pid, 0)
    child, journals = int((tmp_path / "child").read_text()), Journals(tmp_path, "shop")
    try:
        assert found(journals) == []
        (owner,) = journals.status().held
        assert (owner.pid, owner.worker) == (pid, "w1@host")
    finally:
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: found(journals) == ["a"], 30, "its lock to be free")
    assert journals.status().held == ()


def test_it_is_held_by_one_that_empties_it_at_a_time_and_by_nobody_afterwards(tmp_path: Path) -> None:
    dead(tmp_path, "a", "b")
    one, other = Journals(tmp_path, "shop"), Journals(tmp_path, "shop")
    going = one.abandoned()
    held = next(going)
    assert list(other.abandoned()) == []
    # a child that is forked just then has the lock, too, and must not keep it
    pid = os.fork()
    if not pid:
        signal.pause()
    try:
        going.close()
        assert found(other) == ["a", "b"]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert held.owner.worker == "w1@host"
    assert emptied(one) == ["a", "b"]
    assert list((tmp_path / "journal").iterdir()) == []


def test_another_machines_journal_wants_a_minute_of_silence_as_well(tmp_path: Path) -> None:
    path, journals = dead(tmp_path, "a"), Journals(tmp_path, "shop")
    owner = path / "owner"
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "machine": "another"}))
    assert found(journals) == []
    os.utime(owner, (time.time() - 90, time.time() - 90))
    assert found(journals) == ["a"]
    assert [item.name for item in (tmp_path / "journal").iterdir()] == [path.name]


def test_a_sign_of_life_is_given(tmp_path: Path) -> None:
    journal = Journal(tmp_path, LIMIT, "shop")
    journal.beat()
    journal.open("w1@host")
    (owner,) = tmp_path.glob("journal/*/owner")
    os.utime(owner, (1, 1))
    journal.beat()
    assert owner.stat().st_mtime > 1
    journal.close()


def test_the_process_that_ran_it_may_mark_it_and_no_other(tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        journal = Journal(tmp_path, LIMIT, "shop")
        journal.open("w1@host")
        for task_id in ("a", "b", "a-twin", "c"):
            journal.keep(taken(task_id))
        child = os.fork()
        if not child:
            journal.mark_done("a", lambda entry: entry.headers["id"] == "a")
            journal.mark_done("c", lambda entry: False)
            journal.mark_done("unknown", lambda entry: True)
            os._exit(0)
        os.waitpid(child, 0)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert found(Journals(tmp_path, "shop")) == ["b", "a-twin", "c"]


def test_a_file_that_may_still_be_marked_is_not_used_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, LIMIT, "shop")
    journal.keep(taken("a")).done(reuse=False)
    assert list(tmp_path.glob("journal/*/*.entry")) == []
    journal.keep(taken("b")).done()
    assert len(list(tmp_path.glob("journal/*/*.entry"))) == 1
    journal.close()


def test_other_applications_and_what_is_half_made_are_left_alone(tmp_path: Path) -> None:
    dead(tmp_path, "a", app="other")
    half = tmp_path / "journal" / "00000000000000000001-1-aa.shop.new"
    half.mkdir()
    (half / "owner").touch()
    journals = Journals(tmp_path, "shop")
    assert found(journals) == []
    assert half.exists()
    os.utime(half, (1, 1))
    assert found(journals) == []
    assert not half.exists()
    assert found(Journals(tmp_path, "other")) == ["a"]


@pytest.mark.parametrize("damage", [b"A", b"W guardrails-journal", b"\0" * 9000, b"W guardrails-journal 1 9 9 aa\nx"])
def test_what_is_damaged_is_set_aside_and_keeps_nothing_else_back(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path, journals = dead(tmp_path, "a", "b", "c"), Journals(tmp_path, "shop")
    sorted(path.glob("*.entry"))[1].write_bytes(damage)
    assert emptied(journals) == ["a", "c"]
    assert journals.status().unreadable == 1
    assert not path.exists()
    assert "the message was not acknowledged, so its broker delivers it again" in caplog.text
    assert emptied(journals) == []


def test_a_newer_versions_entry_is_left_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, journals = dead(tmp_path, "a", "b"), Journals(tmp_path, "shop")
    first = min(path.glob("*.entry"))
    first.write_bytes(first.read_bytes().replace(b"journal 1", b"journal 9", 1))
    assert emptied(journals) == ["b"]
    assert emptied(journals) == []
    assert journals.status().entries == 1
    assert caplog.text.count("upgrade") == 1


def test_only_its_owner_may_read_it_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        journal = Journal(tmp_path / "spool", LIMIT, "shop")
        journal.keep(taken("secret"))
    finally:
        os.umask(before)
    places = [tmp_path / "spool", *(tmp_path / "spool").rglob("*")]
    assert {stat.S_IMODE(place.stat().st_mode) for place in places} == {0o700, 0o600}
    assert all(stat.S_IMODE(place.stat().st_mode) == 0o700 for place in places if place.is_dir())


def test_it_takes_no_more_than_its_limit_but_always_one_message(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 20_000, "shop")
    first = journal.keep(taken("a", 50_000))
    with pytest.raises(SpoolError, match=r"it is full, 53,248 of 20,000 bytes are taken and 4,096 wanted"):
        journal.keep(taken("b"))
    first.done()
    slots = [journal.keep(taken(str(number))) for number in range(4)]
    with pytest.raises(SpoolError, match="is full"):
        journal.keep(taken("c"))
    for slot in slots:
        slot.done()
    assert len(list(tmp_path.glob("journal/*/*.entry"))) == 4
    journal.close()


def test_large_messages_and_many_at_once_do_not_stay_on_the_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path, LIMIT, "shop")
    slots = [journal.keep(taken(str(number), 3_000_000 if number < 3 else 10)) for number in range(50)]
    for slot in slots:
        slot.done()
        slot.done()
    files = list(tmp_path.glob("journal/*/*.entry"))
    assert len(files) <= 32
    assert sum(file.stat().st_size for file in files) <= 32 * 4096
    journal.close()


def test_the_spool_does_not_count_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20, "shop")
    before = spool.status()
    Journal(tmp_path, LIMIT, "shop").keep(taken("a"))
    assert (spool.status().bytes, spool.status().entries, spool.is_empty()) == (before.bytes, 0, True)


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """What a full disk does: writes beyond that fail, in part or wholly."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_said_and_leaves_nothing_half(tmp_path: Path) -> None:
    journal = Journal(tmp_path, LIMIT, "shop")
    first = journal.keep(taken("a"))
    with no_file_above(6000):
        for _ in range(3):
            with pytest.raises(SpoolError, match="File too large"):
                journal.keep(taken("b", 9000))
    assert [path.stat().st_size for path in sorted(tmp_path.glob("journal/*/*.entry"))] == [4096, 0]
    second = journal.keep(taken("c", 9000))
    first.done()
    second.done()
    journal.close()
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_directory_that_is_no_directory_is_said_and_mended(tmp_path: Path) -> None:
    journal = Journal(tmp_path, LIMIT, "shop")
    (tmp_path / "journal").touch()
    with pytest.raises(SpoolError, match=str(tmp_path / "journal")):
        journal.keep(taken("a"))
    (tmp_path / "journal").unlink()
    journal.keep(taken("a")).done()
    journal.close()


def test_a_directory_that_somebody_removes_is_missed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, LIMIT, "shop")
    gone = journal.keep(taken("a"))
    gone.done()
    (folder,) = (tmp_path / "journal").iterdir()
    subprocess.run(["rm", "-r", str(folder)], check=True)
    with pytest.raises(SpoolError, match="somebody has removed it"):
        journal.keep(taken("b"))
    journal.keep(taken("b"))
    gone.done()
    assert len(list(tmp_path.glob("journal/*/*.entry"))) == 1
    journal.close()


def test_kill_9_at_any_instant_leaves_what_was_kept_and_nothing_half(tmp_path: Path) -> None:
    rng = random.Random(5)
    for number in range(12):
        folder = tmp_path / str(number)
        child = subprocess.Popen([sys.executable, str(SCRIPT), str(folder)], stdout=subprocess.PIPE, env=ENVIRONMENT,
                                 text=True)  # fmt: skip
        assert child.stdout is not None
        said = [child.stdout.readline()]
        time.sleep(rng.uniform(0.0, 0.1))
        child.send_signal(signal.SIGKILL)
        said += child.stdout.read().splitlines()
        child.wait()
        child.stdout.close()
        words = [line.split() for line in said]
        kept = {word[1] for word in words if word[0] == "kept"}
        ended = {word[1] for word in words if word[0] == "end"}
        begun = {word[1] for word in words if word[0] == "begin"}
        there = set(emptied(Journals(folder, "shop")))
        assert kept - ended <= there <= begun
        assert len(there - (kept - ended)) <= 1  # the one that it was about
