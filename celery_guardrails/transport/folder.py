"""A directory that is held open, and its files by their names in it: no link is followed, to either of them.

Owns how the spool and the journal reach their files. Every operation goes to the directory that was opened and checked,
even if somebody renames or replaces it meanwhile. It must not know what is in the files.
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
    """A file or directory that others may write, or a link: it is not read. `.why` says which, and what to type."""

    def __init__(self, why: Distrust) -> None:
        super().__init__(errno.EPERM, why.reason, why.path)
        self.why = why


class Folder:
    """An open directory.

    Args:
        path: where it is.
        above: the open directory that it is in; `None`: it is opened by its whole path, whose last part must not be a
            link.

    Raises:
        Untrusted: the path is a link.
        OSError: the directory cannot be opened.
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
        """Close the directory."""
        os.close(self.descriptor)

    def distrust(self) -> Distrust | None:
        """Why no file in it is trusted; `None`: nobody else may write the directory.

        Raises:
            OSError: the directory cannot be examined.
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
        """Make a directory in this one, for its owner alone, and open it.

        Raises:
            OSError: the directory cannot be made.
        """
        os.mkdir(name, 0o700, dir_fd=self.descriptor)
        made = Folder(self.path / name, self)
        os.fchmod(made.descriptor, 0o700)  # whatever the umask is
        return made

    def names(self) -> list[str]:
        """The names in the directory, sorted."""
        return sorted(os.listdir(self.descriptor))

    def stat(self, name: str) -> os.stat_result | None:
        """The status of a file, or of a link itself; `None`: it does not exist, or cannot be examined."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError:
            return None

    def open(self, name: str, flags: int) -> int:
        """Open a file in the directory; a new file (`O_EXCL`) is for its owner alone, whatever the umask is.

        Raises:
            Untrusted: the file is a link.
            OSError: the file cannot be opened.
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
            Untrusted: others may write the file, or it is not a regular file.
            OSError: the file cannot be opened.
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
        """The content of a file that nobody else may write. Raises as `open_trusted` does."""
        with os.fdopen(self.open_trusted(name), "rb") as found:
            return found.read()

    def rename(self, name: str, other: str, to: Folder | None = None) -> None:
        """Rename a file, within this directory or into another."""
        os.rename(name, other, src_dir_fd=self.descriptor, dst_dir_fd=(to or self).descriptor)

    def unlink(self, name: str, missing_ok: bool = False) -> None:
        """Remove a file."""
        try:
            os.unlink(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def sync(self) -> None:
        """Make the directory's entries survive a crash of the machine, if its file system can do that."""
        sync_descriptor(self.descriptor)


def reject(exc: OSError, directory: Path) -> SpoolError:
    """An error of the file system as a `SpoolError`, with what to do about it if that is known."""
    if isinstance(exc, Untrusted):
        return SpoolError(exc.why.path, exc.why.reason, exc.why.fix)
    return SpoolError(str(directory), words_of(exc))


def _link(path: Path, fix: str) -> Distrust:
    return Distrust(str(path), "is a link, which is not followed", fix)
