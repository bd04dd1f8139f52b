"""The spool when its process is killed, or its disk is full or read-only: nothing half, nothing lost."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_guardrails.errors import SpoolError
from celery_guardrails.transport.spool import Spool
from tests.harness import ROOT
from tests.integration.transport.spooling import LIMIT, entry
from tests.integration.transport.test_spool import bodies, filled

SCRIPT = Path(__file__).with_name("spooling.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def test_processes_that_write_at_once_do_not_exceed_the_limit(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from celery_guardrails.errors import SpoolError\n"
        "from celery_guardrails.transport.spool import Spool\n"
        "from tests.integration.transport.spooling import entry\n"
        "spool = Spool(Path(sys.argv[1]), 400_000)\n"
        "try:\n"
        "    while True: spool.put(entry(b'x' * 3000))\n"
        "except SpoolError as exc: assert 'is full' in str(exc), exc\n"
    )
    folder = tmp_path / "spool"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(folder), str(ROOT)]) for _ in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    status = Spool(folder, 400_000).status()
    assert 380_000 < status.bytes <= 400_000 + 3 * 5_000


def test_kill_9_while_writing_leaves_what_was_promised_and_nothing_half(tmp_path: Path) -> None:
    rng = random.Random(7)
    folder, promised = tmp_path / "spool", []
    for _ in range(15):
        child = subprocess.Popen(
            [sys.executable, str(SCRIPT), "put", str(folder)], stdout=subprocess.PIPE, env=ENVIRONMENT, text=True
        )
        assert child.stdout is not None
        promised += [child.stdout.readline().strip()]
        time.sleep(rng.uniform(0.0, 0.05))
        child.send_signal(signal.SIGKILL)
        promised += child.stdout.read().split()
        child.wait()
        child.stdout.close()
    spool = Spool(folder, LIMIT)
    names = spool.names()
    assert set(promised) <= set(names)
    claims = [spool.claim(name) for name in names]
    assert all(claims)
    assert spool.status().unreadable == 0
    halves = [path for path in folder.iterdir() if ".writing-" in path.name]
    for path in halves:
        os.utime(path, (0, 0))
    spool.names()
    assert [path for path in halves if path.exists()] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("this user cannot mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_an_error_and_leaves_nothing_half(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool", LIMIT)
    written, problem = filled(spool, 50_000)
    assert "No space left on device" in problem
    assert written > 5
    assert len(list(spool.directory.iterdir())) == written == len(bodies(spool))
    claim = spool.claim(spool.names()[0])
    assert claim is not None
    claim.done()
    spool.put(entry(b"x" * 50_000))


def test_a_disk_that_became_read_only_keeps_what_it_has(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool", LIMIT)
    path = spool.put(entry(b"1"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SpoolError, match="Read-only"):
        spool.put(entry(b"2"))
    with pytest.raises(SpoolError, match="Read-only"):
        spool.claim(spool.names()[0])  # what is published could not be removed
    assert not spool.status().writable
    assert bodies(spool) == [b"1"]
    assert path.exists()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


def test_a_file_size_limit_is_an_error_and_leaves_nothing_half(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "put", str(folder)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert "File too large" in done.stdout.splitlines()[-1], done.stderr
    assert len(bodies(Spool(folder, LIMIT))) == len(list(folder.iterdir())) == len(done.stdout.splitlines()) - 1


def test_a_claimed_file_that_cannot_be_removed_is_an_error(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool", LIMIT)
    spool.put(entry(b"1"))
    claim = spool.claim(spool.names()[0])
    assert claim is not None
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SpoolError, match="Read-only"):
        claim.done()
    claim.release()
    assert not spool.is_empty()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
