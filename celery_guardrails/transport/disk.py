"""What the spool and the journal need of a file system: directories that are synced, names, errors in words.

It must not know what is in the files.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

__all__ = ["app_slug", "slug", "sync_descriptor", "sync_directory", "words_of"]

_NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""The errors of file systems that cannot sync a directory: some over the network, some in user space."""


def app_slug(app: str) -> str:
    """An application's name as a part of its files' names."""
    return slug(app) or "app"


def slug(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:40]


def sync_directory(directory: Path) -> None:
    """Make a directory's entries survive a crash of the machine, if its file system can do that.

    Raises:
        OSError: the sync failed.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int) -> None:
    """Do the same for an open directory. Raises as `sync_directory` does."""
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in _NOT_SYNCED:
            raise


def words_of(exc: BaseException) -> str:
    """An error of the file system in words, without the path."""
    return exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)
