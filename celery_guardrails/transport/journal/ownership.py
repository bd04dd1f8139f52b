"""Who owns a journal: how another process finds out that the journal's worker is dead, and not only slow or frozen.

A worker holds a lock (`flock`) on the file `owner` of its journal. The main process and the children that it forked
hold the lock together: the kernel releases it when the last of them has ended, however they ended. On one kernel,
containers included, the lock alone decides. Between machines it does not: another machine may not see the lock (NFS
mounted with `nolock`), and a machine that was rebooted holds no lock. There the owner is dead only if it has also given
no sign of life for a minute, by the directory's own clock. Owns the file `owner`: `pid`, `host`, `machine`, `worker`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from celery_guardrails.transport.folder import Folder

__all__ = ["OWNER", "SIGN_OF_LIFE", "Lock", "Owner"]

OWNER = "owner"
SIGN_OF_LIFE = 10.0
"""Seconds from one sign of life to the next."""
_SILENCE = 60.0
"""Seconds without a sign of life after which an owner on another machine counts as dead."""
_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Owner:
    """The worker's main process that writes a journal: its node name, `pid`, `host` name and `machine`."""

    worker: str = ""
    pid: int = 0
    host: str = ""
    machine: str = ""

    @classmethod
    def me(cls, worker: str) -> Owner:
        """This process, as the worker of that node name."""
        return cls(worker, os.getpid(), socket.gethostname(), machine())

    @classmethod
    def read(cls, descriptor: int) -> Owner:
        """The owner that a file names; an unreadable file gives an owner without worker, pid, host and machine."""
        try:
            found = json.loads(os.pread(descriptor, 65536, 0))
            return cls(str(found["worker"]), int(found["pid"]), str(found["host"]), str(found["machine"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def written(self) -> bytes:
        """The file's content."""
        return json.dumps(asdict(self)).encode()

    @property
    def is_of_this_machine(self) -> bool:
        """Whether the owner runs, or ran, on this kernel since the kernel's last boot."""
        return bool(self.machine) and self.machine == machine()


class Lock:
    """A lock on the file `owner` of a journal.

    Args:
        descriptor: of the file; it belongs to the lock from now on.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def take(self) -> bool:
        """Take the lock if nobody holds it; `True` also on a file system without locks: signs of life decide there."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            return exc.errno not in _HELD
        return True

    def release(self) -> None:
        """Release the lock, also for children that were forked meanwhile."""
        with suppress(OSError):
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        self.leave()

    def leave(self) -> None:
        """Close the file; a child that was forked meanwhile still holds the lock."""
        with suppress(OSError):
            os.close(self.descriptor)


@lru_cache(maxsize=1)
def machine() -> str:
    """The name of this kernel's boot, the same in all containers; where the kernel gives no name, the host's name."""
    try:
        return _BOOT.read_text("ascii").strip()
    except OSError:
        return socket.gethostname()


def is_silent(directory: Folder, descriptor: int) -> bool:
    """Whether the owner has given no sign of life for a minute, by the clock of the file system.

    Args:
        directory: where this process may write, beside the journal.
        descriptor: of the file `owner`.

    Raises:
        OSError: the directory cannot be written.
    """
    probe = f".now-{os.getpid()}-{secrets.token_hex(4)}"
    made = directory.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        os.utime(made)  # by the server's clock, where it is another machine's
        now = os.fstat(made).st_mtime
    finally:
        os.close(made)
        with suppress(OSError):
            directory.unlink(probe)
    return now - os.fstat(descriptor).st_mtime > _SILENCE
