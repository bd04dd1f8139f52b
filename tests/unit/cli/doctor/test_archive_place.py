"""Where an archive must not be. This machine has neither overlay nor network disks: its mounts are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_guardrails.cli.doctor.checks import archive, spool
from celery_guardrails.cli.doctor.finding import Level
from tests.unit.cli.doctor.conftest import Offline


@pytest.mark.parametrize(
    ("kind", "words"),
    [("overlay", "it ends with the container"), ("nfs4", "SQLite's locks do not work there"), ("ext4", None)],
)
def test_the_disk_of_an_sqlite_archive(
    offline: Offline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, words: str | None
) -> None:
    mounts = f"27 1 254:0 / / rw - {kind} disk rw"
    monkeypatch.setattr(archive, "read_mounts", lambda: mounts)
    monkeypatch.setattr(spool, "read_mounts", lambda: mounts)
    url, folder = f"sqlite:///{tmp_path / 'a.sqlite3'}", str(tmp_path / "spool")
    context = offline("redis", guardrails={"store": {"url": url}, "dead_letter": {"spool_dir": folder}})
    (found,) = archive.place(context)
    assert (found.level is Level.FAULT) == (words is not None)
    assert words is None or words in found.found
    assert [finding.level for finding in spool.directory(context)] == [Level.WARNING] * (kind == "overlay") + [Level.OK]


def test_an_archive_elsewhere_has_no_disk_here(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(archive.place(offline("redis", guardrails={"store": {"url": "postgresql://u@h/x"}}))) == []
    assert list(archive.machines(offline("redis", guardrails={"store": {"url": "postgresql://u@h/x"}}))) == []
    monkeypatch.setattr(archive, "read_mounts", str)
    assert list(archive.place(offline("redis"))) == []
