"""What the spool and the journal need of a file system: directories that are synced, names, errors in words.

Must not know what is kept in the files.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

__all__ = ["app_slug", "slug", "sync_descriptor", "sync_directory", "words_of"]

_NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What a file system says that cannot sync a directory: some over the network, some in user space."""


def app_slug(app: str) -> str:
    """An application's name as its files carry it."""
    return slug(app) or "app"


def slug(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:40]


def sync_directory(directory: Path) -> None:
    """Have a directory's entries survive a crash of the machine, where its file system can do that.

    Raises:
        OSError: it could not be done.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int) -> None:
    """The same of a directory that is open. Raises as `sync_directory`."""
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in _NOT_SYNCED:
            raise


def words_of(exc: BaseException) -> str:
    """An error of the file system in words, without the path."""
    return exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)
