"""Which file system a path is on, from what Linux tells of its mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_guardrails.cli.doctor.checks.disk import Mount, mount_of

MOUNTS = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw
40 27 0:30 / /srv/my\040data rw,relatime shared:7 master:1 - nfs4 host:/data rw
41 27 0:31 / /srv/app rw - ext4 /dev/vdb rw
42 41 0:32 / /srv/app rw - overlay overlay rw
43 27 0:33 / /mnt/cloud rw - fuse.s3fs s3fs rw
44 27 0:33 / /mnt/disk rw - fuse.ntfs ntfs rw
a line that says nothing
"""


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/var/lib/archive.sqlite3", "/", "ext4"),
        ("/dev/shm/archive.sqlite3", "/dev/shm", "tmpfs"),
        ("/dev/shmother/archive.sqlite3", "/", "ext4"),
        ("/srv/my data/archive.sqlite3", "/srv/my data", "nfs4"),
        ("/srv/app/data/archive.sqlite3", "/srv/app", "overlay"),
    ],
)
def test_the_innermost_and_latest_mount_is_it(path: str, point: str, kind: str) -> None:
    assert mount_of(Path(path), MOUNTS) == Mount(point, kind)


def test_nothing_is_known_without_mounts() -> None:
    assert mount_of(Path("/var"), "") is None


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("tmpfs", (True, False, False)),
        ("overlay", (False, True, False)),
        ("nfs4", (False, False, True)),
        ("cifs", (False, False, True)),
        ("fuse.sshfs", (False, False, True)),
        ("fuse.s3fs", (False, False, True)),
        ("fuse.ntfs", (False, False, False)),
        ("ext4", (False, False, False)),
    ],
)
def test_what_a_file_system_means_for_an_archive(kind: str, facts: tuple[bool, bool, bool]) -> None:
    mount = Mount("/", kind)
    assert (mount.in_memory, mount.in_layer, mount.on_network) == facts
