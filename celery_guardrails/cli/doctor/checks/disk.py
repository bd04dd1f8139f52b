"""What kind of file system a path is on, as far as it matters for files that must last. Reads /proc/self/mountinfo."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mount", "mount_of", "read_mounts"]

_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_LAYER = frozenset({"overlay", "overlayfs", "aufs"})
_NETWORK = re.compile(r"nfs|cifs|smb|9p|ceph|gluster|lustre|afs|beegfs|gpfs|fuse\.(sshfs|s3|gcs|rclone|glusterfs|ceph)")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system: where, and of which type."""

    point: str
    type: str

    @property
    def in_memory(self) -> bool:
        """Whether a restart of the machine empties it."""
        return self.type in _MEMORY

    @property
    def in_layer(self) -> bool:
        """Whether it is a container's own layer, which ends with the container."""
        return self.type in _LAYER

    @property
    def on_network(self) -> bool:
        """Whether it is on another machine, where SQLite's locks and write-ahead log do not work."""
        return _NETWORK.match(self.type) is not None


def read_mounts() -> str:
    """The mounts of this process as Linux lists them; `""` on other systems."""
    try:
        return Path("/proc/self/mountinfo").read_text("utf-8", errors="replace")
    except OSError:
        return ""


def mount_of(path: Path, mountinfo: str) -> Mount | None:
    """The file system that a path is on, or would be once it exists; `None` where that is not known.

    Args:
        path: a path, whose links are followed.
        mountinfo: what `read_mounts` gives.
    """
    whole = path.resolve()
    best: Mount | None = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4])
        # of two mounts at the same place, the later covers the earlier
        if whole.is_relative_to(point) and (best is None or len(point) >= len(best.point)):
            best = Mount(point, after.split()[0])
    return best
