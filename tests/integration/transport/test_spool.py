"""The spool on a real file system: what it took survives kill -9, and what it cannot take leaves nothing behind."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from celery_guardrails.errors import SpoolError
from celery_guardrails.transport.spool import Spool
from tests.harness import ROOT
from tests.integration.transport.spooling import LIMIT, entry

SCRIPT = Path(__file__).with_name("spooling.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
NEWER = b'{"v": 2, "soul": true}'


def bodies(spool: Spool) -> list[bytes]:
    return [found.envelope.body for _, found in spool.entries()]


def dead_pid() -> int:
    """The pid of a process that has ended."""
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


def renamed(spool: Spool, suffix: str, seconds_ago: float = 0.0) -> Path:
    """Give the only entry another ending, as if that had happened a while ago."""
    (path,) = spool.directory.iterdir()
    other = path.rename(f"{path}{suffix}")
    then = time.time() - seconds_ago
    os.utime(other, (then, then))
    return other


def filled(spool: Spool, size: int) -> tuple[int, str]:
    """Put entries until one is refused; how many went in, and what the refusal said."""
    for count in range(100):
        try:
            spool.put(entry(b"x" * size))
        except SpoolError as exc:
            return count, str(exc)
    raise AssertionError("it took 100")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", LIMIT, "shop.app")


def test_entries_come_in_the_order_in_which_they_were_put(spool: Spool) -> None:
    assert spool.is_empty()
    assert spool.names() == []
    for number in range(20):
        spool.put(entry(b"%d" % number))
    assert bodies(spool) == [b"%d" % number for number in range(20)]
    assert len(spool.names()) == 20
    assert not spool.is_empty()


def test_only_its_owner_can_read_it(spool: Spool) -> None:
    before = os.umask(0)
    try:
        path = spool.put(entry(b"secret"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(spool.directory.stat().st_mode) == 0o700


def test_a_directory_given_relative_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spool = Spool(Path("here"), LIMIT)
    monkeypatch.chdir("/")
    assert spool.put(entry(b"1")).parent == tmp_path / "here"


def test_another_application_leaves_it_alone(spool: Spool) -> None:
    spool.put(entry(b"1"))
    other = Spool(spool.directory, LIMIT, "billing")
    assert other.is_empty()
    assert other.names() == []
    assert other.claim(spool.names()[0]) is None
    assert other.status().bytes == spool.status().bytes > 0


def test_a_claim_is_held_by_one_and_can_be_given_back(spool: Spool) -> None:
    spool.put(entry(b"1"))
    (name,) = spool.names()
    claim = spool.claim(name)
    assert claim is not None
    assert claim.entry.envelope.body == b"1"
    assert spool.names() == []
    assert spool.claim(name) is None
    assert not spool.is_empty()
    claim.release()
    again = spool.claim(name)
    assert again is not None
    again.done()
    again.done()
    again.release()
    assert spool.is_empty()


def test_a_claim_is_taken_over_when_its_process_is_dead_or_it_is_old(spool: Spool) -> None:
    host = os.uname().nodename
    for suffix, age, free in [
        (f".shipping-{dead_pid()}@{host}", 0.0, True),
        (f".shipping-{os.getpid()}@{host}", 0.0, False),
        (f".shipping-{os.getpid()}@{host}", 90.0, True),
        (f".shipping-{dead_pid()}@elsewhere", 0.0, False),
        (f".shipping-{dead_pid()}@elsewhere", 90.0, True),
        (".shipping-99999999999999999999@" + host, 90.0, True),
    ]:
        spool.put(entry(b"1"))
        held = renamed(spool, suffix, age)
        assert spool.names() == ([held.name] if free else []), suffix
        claim = spool.claim(held.name)  # by name it can be had at any time
        assert claim is not None
        claim.done()
    assert spool.is_empty()


def test_what_a_dead_process_left_half_written_is_removed(spool: Spool) -> None:
    host = os.uname().nodename
    for suffix, age, stays in [
        (f".writing-{dead_pid()}@{host}", 0.0, True),  # it may be alive in another container of this name
        (f".writing-{dead_pid()}@{host}", 90.0, False),
        (f".writing-{os.getpid()}@{host}", 90.0, True),
        (f".writing-{os.getpid()}@{host}", 4000.0, False),
        (f".writing-{dead_pid()}@elsewhere", 90.0, True),
    ]:
        spool.put(entry(b"1"))
        half = renamed(spool, suffix, age)
        assert spool.is_empty()
        assert spool.names() == []
        assert half.exists() is stays, (suffix, age)
        half.unlink(missing_ok=True)


def test_a_file_that_cannot_be_read_is_set_aside_and_blocks_nothing(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    broken = spool.put(entry(b"1"))
    spool.put(entry(b"2"))
    broken.write_bytes(broken.read_bytes()[:-10])
    assert bodies(spool) == [b"2"]
    claims = [spool.claim(name) for name in spool.names()]
    assert [claim and claim.entry.envelope.body for claim in claims] == [None, b"2"]
    assert spool.names() == []
    assert Path(f"{broken}.unreadable").exists()
    assert spool.status().unreadable == 1
    assert "is set aside" in caplog.text


def test_a_newer_entry_is_left_alone_with_one_warning(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    newer = spool.put(entry(b"1"))
    newer.write_bytes(NEWER)
    for _ in range(2):
        assert [spool.claim(name) for name in spool.names()] == [None]
    assert newer.read_bytes() == NEWER
    assert caplog.text.count("schema version 2") == 1


def test_files_that_are_not_ours_are_left_alone(spool: Spool) -> None:
    spool.put(entry(b"1"))
    for name in ("README", "x.json", "notes.shop-app.json", "00000000000000000001-1-a.shop-app.json.bak"):
        (spool.directory / name).write_text("mine")
    assert len(spool.names()) == 1
    assert bodies(spool) == [b"1"]
    assert spool.claim("README") is None


def test_its_status(spool: Spool) -> None:
    empty = spool.status()
    assert (empty.entries, empty.bytes, empty.limit, empty.oldest_at) == (0, 0, LIMIT, None)
    assert empty.writable
    assert not spool.directory.exists()
    before = datetime.now(timezone.utc)
    paths = [spool.put(entry(b"x" * 1000)) for _ in range(3)]
    found = spool.status()
    assert (found.entries, found.unreadable) == (3, 0)
    assert found.bytes == sum(path.stat().st_size for path in paths)
    assert found.oldest_at is not None
    assert before <= found.oldest_at <= datetime.now(timezone.utc)
    with pytest.raises(SpoolError, match="Not a directory"):
        Spool(Path("/dev/null/spool"), LIMIT).status()


@pytest.mark.parametrize("place", ["/dev/null/spool", "/proc/spool", "/nowhere\0"], ids=["file", "proc", "nul"])
def test_a_place_that_cannot_be_written_is_an_error(place: str) -> None:
    spool = Spool(Path(place), LIMIT)
    with pytest.raises(SpoolError, match="the spool /"):
        spool.put(entry(b"1"))


def test_a_name_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="too long"):
        Spool(tmp_path / ("x" * 300), LIMIT).put(entry(b"1"))
    deep = tmp_path.joinpath(*["y" * 200] * 25)
    with pytest.raises(SpoolError, match="too long"):
        Spool(deep, LIMIT).put(entry(b"1"))


def test_a_file_in_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    spool = Spool(tmp_path / "spool", LIMIT)
    with pytest.raises(SpoolError):
        spool.put(entry(b"1"))
    with pytest.raises(SpoolError):
        spool.names()


def test_a_full_spool_says_so_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 10_000)
    count, problem = filled(spool, 1000)
    assert re.search(r"it is full, [\d,]+ of 10,000 bytes are taken and [\d,]+ wanted", problem)
    assert 3 < count < 10
    assert len(list(spool.directory.iterdir())) == count
    assert spool.status().bytes <= 10_000
    claim = spool.claim(spool.names()[0])
    assert claim is not None
    claim.done()
    spool.put(entry(b"x" * 1000))


def test_leftovers_make_room_before_it_says_that_it_is_full(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 3_000)
    spool.put(entry(b"x" * 1000))
    renamed(spool, f".writing-{dead_pid()}@{os.uname().nodename}", 90.0)
    spool.put(entry(b"x" * 1000))
    assert len(list(spool.directory.iterdir())) == 1


def test_entries_put_by_threads_and_forks_have_names_of_their_own(spool: Spool) -> None:
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            for number in range(25):
                spool.put(entry(b"%d" % number))
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    assert len(spool.names()) == 100
