"""A directory that is held open, and its files by their names in it: no link is followed, here or there.

Owns how the spool and the journal reach their files. What is done goes to the directory that was opened, and looked at,
whatever somebody does to its name meanwhile. It must not know what is in the files.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType

from celery_guardrails.access import Distrust, distrust
from celery_guardrails.command import shell_quote
from celery_guardrails.errors import SpoolError
from celery_guardrails.transport.disk import sync_descriptor, words_of

__all__ = ["Folder", "Untrusted", "reject"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LINK = (errno.ELOOP, errno.EMLINK)


class Untrusted(OSError):
    """Others may write here, or it is a link: nothing is taken from there. `.why` says which, and what to type."""

    def __init__(self, why: Distrust) -> None:
        super().__init__(errno.EPERM, why.reason, why.path)
        self.why = why


class Folder:
    """An open directory.

    Args:
        path: where it is.
        above: the open directory that it is in; `None`: it is found by its whole path, whose last part is no link.

    Raises:
        Untrusted: it is a link.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, above: Folder | None = None) -> None:
        self.path = path
        try:
            at: int | None = None if above is None else above.descriptor
            self.descriptor: int = os.open(path if above is None else path.name, _FOLDER, dir_fd=at)
        except OSError as exc:
            if exc.errno in (*_LINK, errno.ENOTDIR) and path.is_symlink():
                raise Untrusted(_link(path, f"name the directory itself: {os.path.realpath(path)}")) from exc
            raise

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)

    def distrust(self) -> Distrust | None:
        """Why nothing is taken from here; `None`: nobody else may write it.

        Raises:
            OSError: it cannot be looked at.
        """
        return distrust(self.descriptor, str(self.path), folder=True)

    def trusted(self) -> Folder:
        """This directory, if nobody else may write it.

        Raises:
            Untrusted: others may.
        """
        why = self.distrust()
        if why is not None:
            raise Untrusted(why)
        return self

    def make(self, name: str) -> Folder:
        """Make a directory in it, for its owner alone, and open it.

        Raises:
            OSError: it cannot be made.
        """
        os.mkdir(name, 0o700, dir_fd=self.descriptor)
        made = Folder(self.path / name, self)
        os.fchmod(made.descriptor, 0o700)  # whatever the umask is
        return made

    def names(self) -> list[str]:
        """What is in it, sorted."""
        return sorted(os.listdir(self.descriptor))

    def stat(self, name: str) -> os.stat_result | None:
        """What is known of a file, a link itself; `None`: it is gone."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError:
            return None

    def open(self, name: str, flags: int) -> int:
        """Open a file of it; one that is made so (`O_EXCL`) is for its owner alone, whatever the umask is.

        Raises:
            Untrusted: it is a link.
            OSError: it cannot be opened.
        """
        try:
            descriptor = os.open(name, flags | _FILE, 0o600, dir_fd=self.descriptor)
        except OSError as exc:
            if exc.errno in _LINK:
                raise Untrusted(_link(self.path / name, f"rm {shell_quote(str(self.path / name))}")) from exc
            raise
        if flags & os.O_EXCL:
            os.fchmod(descriptor, 0o600)
        return descriptor

    def open_trusted(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open a file that nobody else may write.

        Raises:
            Untrusted: others may, or it is no regular file.
            OSError: it cannot be opened.
        """
        descriptor = self.open(name, flags)
        try:
            why = distrust(descriptor, str(self.path / name))
            if why is not None:
                raise Untrusted(why)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def read(self, name: str) -> bytes:
        """What a file holds that nobody else may write. Raises as `open_trusted`."""
        with os.fdopen(self.open_trusted(name), "rb") as found:
            return found.read()

    def rename(self, name: str, other: str, to: Folder | None = None) -> None:
        """Rename a file, within this directory or to another one."""
        os.rename(name, other, src_dir_fd=self.descriptor, dst_dir_fd=(to or self).descriptor)

    def unlink(self, name: str, missing_ok: bool = False) -> None:
        """Remove a file."""
        try:
            os.unlink(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def sync(self) -> None:
        """Have its entries survive a crash of the machine, where its file system can do that."""
        sync_descriptor(self.descriptor)


def reject(exc: OSError, directory: Path) -> SpoolError:
    """An error of the file system as the spool's, with what to do about it where that is known."""
    if isinstance(exc, Untrusted):
        return SpoolError(exc.why.path, exc.why.reason, exc.why.fix)
    return SpoolError(str(directory), words_of(exc))


def _link(path: Path, fix: str) -> Distrust:
    return Distrust(str(path), "is a link, which is not followed", fix)
