"""The spool: a directory that keeps the messages that the broker does not take, until it takes them.

Owns files, one an entry, named so that they sort by time (`entry_name.py`). An entry is written as `.writing-PID@HOST`,
fsynced and renamed. Its shipper first renames it to `.shipping-PID@HOST`. An unreadable entry is set aside as
`.unreadable`. Shipping an entry twice is harmless, because letters are recognised by their id and attempts by their
number. For an entry that must not be published twice (`once`), the name `.shipping-...` says that it may be published
already. A file that others may write is not shipped (`access.py`), and no link is followed. `spooled.py` owns an
entry's content, `shipping.py` the shipping.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from celery_guardrails.access import Distrust, make_directory
from celery_guardrails.errors import SpoolError
from celery_guardrails.transport.disk import sync_directory, words_of
from celery_guardrails.transport.entry_name import UNREADABLE, Naming, is_leftover, put_at, shipping, writing
from celery_guardrails.transport.folder import Folder, Untrusted, reject
from celery_guardrails.transport.spooled import NewerEntry, Spooled, pack, unpack

__all__ = ["Claim", "Spool", "SpoolStatus"]

logger = logging.getLogger("celery_guardrails.transport")


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """The state of a spool.

    `entries` wait to be shipped, the oldest since `oldest_at` (`None`: the spool is empty). `bytes` of `limit` are
    taken, `unreadable` files were set aside. `writable` says whether an entry could be written, `limit` left aside.
    """

    entries: int
    bytes: int
    limit: int
    oldest_at: datetime | None
    unreadable: int
    writable: bool


class Claim:
    """An entry that this process ships, and no other process meanwhile.

    Attributes:
        name: the entry's name.
        entry: what is to be published.
        in_doubt: whether it must not be published twice, and its last shipper ended without a known result.
    """

    def __init__(self, directory: Path, name: str, held: str, entry: Spooled, in_doubt: bool = False) -> None:
        self.name = name
        self.entry = entry
        self.in_doubt = in_doubt
        self._directory = directory
        self._held = held

    def done(self) -> None:
        """Remove the entry, because the broker has confirmed it.

        Raises:
            SpoolError: the entry cannot be removed, and will be shipped again.
        """
        try:
            with Folder(self._directory) as folder:
                folder.unlink(self._held, missing_ok=True)
                if self.entry.envelope.once:
                    folder.sync()
        except OSError as exc:
            raise reject(exc, self._directory) from exc

    def release(self) -> None:
        """Give the entry back, to be shipped later."""
        # If this fails, the entry stays claimed until the claim is old and another shipper takes it over.
        with contextlib.suppress(OSError), Folder(self._directory) as folder:
            folder.rename(self._held, self.name)


class Spool:
    """A directory of entries.

    Args:
        directory: created when the first entry is written, readable by its owner only. Processes may share it. A
            relative path counts from the present working directory.
        limit: bytes that all files in it together may take. Processes that write at the same instant may each count
            the others' reservations and refuse; they exceed the limit by one entry at most, renamed at that instant.
        app: the application's name. Entries of another application are left to its own processes.
    """

    def __init__(self, directory: Path, limit: int, app: str = "") -> None:
        self.directory = Path(os.path.abspath(directory))
        self.limit = limit
        self._naming = Naming(app)
        self._warned: set[str] = set()

    def put(self, entry: Spooled) -> Path:
        """Write an entry so that it survives a crash of this machine, and return its file.

        Raises:
            SpoolError: the directory is full or cannot be written, or the disk is full; nothing was written then.
        """
        try:
            return self._write(pack(entry))
        except OSError as exc:
            raise reject(exc, self.directory) from exc
        except ValueError as exc:
            raise SpoolError(str(self.directory), str(exc)) from exc

    def is_empty(self) -> bool:
        """Whether this application has no entry to ship; cheap. `False` if the directory cannot be read."""
        try:
            with os.scandir(self.directory) as found:
                return not any(self._naming.entry_of(item.name) for item in found)
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def names(self) -> list[str]:
        """The entries that can be claimed, the oldest first; removes leftovers of processes that died while writing.

        Raises:
            SpoolError: the directory cannot be read, or others may write it.
        """
        with self._opened() as folder:
            if folder is None:
                return []
            self._trust(folder)
            self._tidy(folder)
            return [name for name in folder.names() if self._naming.is_free(name, partial(_age, folder, name))]

    def claim(self, name: str) -> Claim | None:
        """Take one of `names` to ship it; `None` if another process has taken it, or it cannot be read.

        A file that is not an entry is set aside under another name. A file of a newer version, of another user, or that
        others may write is left alone. Each of them is logged as a warning.

        Raises:
            SpoolError: others may write the directory, or this process may not, so that it could not remove an entry
                that it has shipped.
        """
        entry = self._naming.entry_of(name)
        if entry is None:
            return None
        with self._opened() as folder:
            if folder is None:
                return None
            self._trust(folder)
            found = self._read(folder, name, entry)
            if found is None or not self._take(folder, name, entry):
                return None
            once = found.envelope.once
            if once:
                folder.sync()  # from here on its name says that it may be published, even after a crash of the machine
            return Claim(self.directory, entry, shipping(entry), found, once and name != entry)

    def entries(self) -> Iterator[tuple[Path, Spooled]]:
        """The entries that wait or are being shipped, the oldest first; unreadable files are passed over.

        Raises:
            SpoolError: the directory cannot be read.
        """
        with self._opened() as folder:
            for name in folder.names() if folder else ():
                if folder and self._naming.entry_of(name):
                    with contextlib.suppress(OSError, ValueError, NewerEntry):
                        yield self.directory / name, unpack(folder.read(name))

    def status(self) -> SpoolStatus:
        """The state of the spool.

        Raises:
            SpoolError: the directory cannot be read.
        """
        with self._opened() as folder:
            names = folder.names() if folder else []
            entries = [name for name in names if self._naming.entry_of(name)]
            return SpoolStatus(
                entries=len(entries),
                bytes=sum(_size(folder, name) for name in names) if folder else 0,
                limit=self.limit,
                oldest_at=put_at(entries[0]) if entries else None,
                unreadable=sum(name.endswith(UNREADABLE) for name in names),
                writable=self._is_writable(),
            )

    def distrusts(self) -> list[Distrust]:
        """Why some entries are not shipped: the distrusted directory alone, or else each distrusted entry.

        Raises:
            SpoolError: the directory cannot be read.
        """
        found: list[Distrust] = []
        with self._opened() as folder:
            if folder is None:
                return []
            if why := folder.distrust():
                return [why]
            for name in filter(self._naming.entry_of, folder.names()):
                try:
                    os.close(folder.open_trusted(name))
                except Untrusted as exc:
                    found.append(exc.why)
                except OSError:  # shipped meanwhile, or another user's
                    continue
        return found

    @contextmanager
    def _opened(self) -> Iterator[Folder | None]:
        """The directory; `None` where there is none yet."""
        try:
            folder = Folder(self.directory)
        except FileNotFoundError:
            yield None
            return
        except OSError as exc:
            raise reject(exc, self.directory) from exc
        with folder:
            yield folder

    def _trust(self, folder: Folder) -> None:
        try:
            folder.trusted()
        except OSError as exc:
            raise reject(exc, self.directory) from exc

    def _read(self, folder: Folder, name: str, entry: str) -> Spooled | None:
        """The content of an entry; `None`, with a warning, if it must not or cannot be read."""
        try:
            return unpack(folder.read(name))
        except FileNotFoundError:
            return None
        except Untrusted as exc:
            self._warn_once(entry, f"is left in the spool: {exc.why.reason}. Type: {exc.why.fix}")
        except (OSError, NewerEntry) as exc:
            self._warn_once(entry, f"is left in the spool: {words_of(exc)}")
        except ValueError as exc:
            aside = entry + UNREADABLE
            with contextlib.suppress(OSError):
                folder.rename(name, aside)
            self._warn_once(entry, f"cannot be read and is set aside as {aside}: {exc}")
        return None

    def _take(self, folder: Folder, name: str, entry: str) -> bool:
        """Rename an entry to say that this process ships it; `False` if another process was quicker."""
        try:
            with contextlib.suppress(PermissionError):  # of another user: the claim is then taken over a little early
                os.utime(name, dir_fd=folder.descriptor, follow_symlinks=False)  # a claim's age counts from here
            folder.rename(name, shipping(entry))
        except FileNotFoundError:
            return False
        except OSError as exc:
            if isinstance(exc, PermissionError) and _may_write(self.directory):
                self._warn_once(entry, f"is left in the spool: {words_of(exc)}, it is another user's")
                return False
            raise reject(exc, self.directory) from exc
        return True

    def _write(self, data: bytes) -> Path:
        for made in make_directory(self.directory):
            sync_directory(made.parent)
        name = self._naming.new()
        temporary = writing(name)
        with Folder(self.directory) as folder:
            descriptor = folder.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                try:
                    self._fill(folder, descriptor, data)
                finally:
                    os.close(descriptor)
                folder.rename(temporary, name)
                folder.sync()
            except BaseException:
                for each in (temporary, name):
                    with contextlib.suppress(OSError):
                        folder.unlink(each)
                raise
        return self.directory / name

    def _fill(self, folder: Folder, descriptor: int, data: bytes) -> None:
        os.ftruncate(descriptor, len(data))  # reserves the space: every later count includes this file
        if _taken(folder) > self.limit:
            self._tidy(folder)
            taken = _taken(folder)
            if taken > self.limit:
                others = taken - len(data)
                raise ValueError(f"it is full, {others:,} of {self.limit:,} bytes are taken and {len(data):,} wanted")
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)

    def _tidy(self, folder: Folder) -> None:
        for name in folder.names():
            if is_leftover(name, partial(_age, folder, name)):
                with contextlib.suppress(OSError):
                    folder.unlink(name)

    def _warn_once(self, entry: str, problem: str) -> None:
        if entry not in self._warned:
            self._warned.add(entry)
            logger.warning("%s in %s %s", entry, self.directory, problem)

    def _is_writable(self) -> bool:
        place = self.directory
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            return place.is_dir() and _may_write(place) and os.statvfs(place).f_bavail > 0
        except OSError:
            return False


def _may_write(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def _taken(folder: Folder) -> int:
    return sum(_size(folder, name) for name in folder.names())


def _size(folder: Folder, name: str) -> int:
    found = folder.stat(name)
    return 0 if found is None or stat.S_ISDIR(found.st_mode) else found.st_size  # `None`: shipped meanwhile


def _age(folder: Folder, name: str) -> float:
    found = folder.stat(name)
    return 0.0 if found is None else time.time() - found.st_mtime
