"""Journals of workers that are dead: found, held by one process at a time, and emptied entry by entry.

Owns finding and removing journals. The caller decides what becomes of an entry. An entry that cannot be read is set
aside beside the journals as `...unreadable`, and the other entries are still read. No entry is taken from a file or a
directory that others may write, and no link is followed (`access.py`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from celery_guardrails.access import Distrust
from celery_guardrails.errors import SpoolError
from celery_guardrails.transport.disk import app_slug, words_of
from celery_guardrails.transport.folder import Folder, Untrusted, reject
from celery_guardrails.transport.journal.entry import State, Taken, unpack
from celery_guardrails.transport.journal.journal import ENTRY, FOLDER, UNFINISHED
from celery_guardrails.transport.journal.ownership import OWNER, Lock, Owner, is_silent
from celery_guardrails.transport.spooled import NewerEntry

__all__ = ["Abandoned", "JournalStatus", "Journals", "Left"]

logger = logging.getLogger("celery_guardrails.transport")

_UNREADABLE = ".unreadable"
_ORPHAN_AGE = 3600.0


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """The state of the journals of one directory.

    `alive` counts the journals of living workers. `held` names the owners whose main process is dead while a child
    still runs. `entries` counts the messages of dead workers that are not letters yet, `unreadable` the files that were
    set aside.
    """

    alive: int
    held: tuple[Owner, ...]
    entries: int
    unreadable: int


class Left:
    """A message that a dead worker left.

    Attributes:
        taken: the message.
        state: `ACKNOWLEDGED`, or `WRITTEN`: nobody knows whether the broker took the acknowledgement.
    """

    def __init__(self, folder: Folder, name: str, state: State, taken: Taken) -> None:
        self.state = state
        self.taken = taken
        self._folder = folder
        self._name = name

    def done(self) -> None:
        """Remove the entry: its message is a letter now, or still with its broker.

        Raises:
            SpoolError: the entry cannot be removed, so a later look at the journal finds it again.
        """
        try:
            self._folder.unlink(self._name, missing_ok=True)
        except OSError as exc:
            raise reject(exc, self._folder.path) from exc


class Abandoned:
    """A dead worker's journal, which this process holds.

    Attributes:
        owner: whose it was.
    """

    def __init__(self, folder: Folder, journals: Folder, owner: Owner, warned: set[str]) -> None:
        self.directory = folder.path
        self.owner = owner
        self._folder = folder
        self._journals = journals
        self._warned = warned

    def entries(self) -> Iterator[Left]:
        """The journal's messages, the oldest file first. Unreadable files are set aside, or left to a newer version."""
        for name in _entries(self._folder):
            try:
                state, taken = unpack(self._folder.read(name))
            except Untrusted as exc:
                self._warn_once(name, f"is left where it is: {exc.why.reason}. Type: {exc.why.fix}")
            except (OSError, NewerEntry) as exc:
                self._warn_once(name, f"is left where it is: {words_of(exc)}")
            except ValueError as exc:
                self._set_aside(name, exc)
            else:
                if taken is not None:
                    yield Left(self._folder, name, state, taken)
                else:
                    with suppress(OSError):
                        self._folder.unlink(name)

    def remove(self) -> None:
        """Remove the directory, if nothing is left in it; never raises."""
        with suppress(OSError):
            if not _entries(self._folder):
                self._folder.unlink(OWNER, missing_ok=True)
                os.rmdir(self.directory.name, dir_fd=self._journals.descriptor)

    def _set_aside(self, name: str, exc: ValueError) -> None:
        aside = f"{self.directory.name}-{name}{_UNREADABLE}"
        with suppress(OSError):
            self._folder.rename(name, aside, to=self._journals)
        words = f"cannot be read and is set aside as {aside}: {exc}; if its worker died while it wrote it, "
        self._warn_once(name, f"{words}the message was not acknowledged, so its broker delivers it again")

    def _warn_once(self, name: str, problem: str) -> None:
        path = str(self.directory / name)
        if path not in self._warned:
            self._warned.add(path)
            logger.warning("%s %s", path, problem)


class Journals:
    """All journals of one application below a spool's directory.

    Args:
        directory: the spool's.
        app: the application's name.
    """

    def __init__(self, directory: Path, app: str = "") -> None:
        self.directory = Path(os.path.abspath(directory)) / FOLDER
        self._ending = f".{app_slug(app)}"
        self._warned: set[str] = set()

    def abandoned(self) -> Iterator[Abandoned]:
        """The journals of dead workers, each locked until the caller asks for the next; cheap while all workers live.

        Raises:
            SpoolError: the directory cannot be read, or others may write it.
        """
        with self._opened() as journals:
            if journals is None:
                return
            names = self._named(journals, self._ending)
            if names and (why := self._distrust(journals)):
                raise SpoolError(why.path, why.reason, why.fix)
            for name in names:
                with ExitStack() as held:
                    found = self._held(journals, name, held)
                    if found is not None:
                        yield Abandoned(found[0], journals, found[1], self._warned)

    def status(self) -> JournalStatus:
        """The state of all journals of this application.

        Raises:
            SpoolError: the directory cannot be read.
        """
        alive, entries, held = 0, 0, []
        with self._opened() as journals:
            if journals is None:
                return JournalStatus(0, (), 0, 0)
            for name in self._named(journals, self._ending):
                with ExitStack() as stack, suppress(FileNotFoundError):
                    folder, lock = _looked_at(journals.path / name, journals, stack)
                    if lock is not None and _is_dead(journals, folder, lock):
                        entries += sum(_is_kept(folder, entry) for entry in _entries(folder))
                    elif _is_orphaned(owner := _owner_of(folder)):
                        held.append(owner)
                    else:
                        alive += 1
            unreadable = len(self._named(journals, _UNREADABLE))
        return JournalStatus(alive, tuple(held), entries, unreadable)

    def distrusts(self) -> list[Distrust]:
        """Why some journals are not read: the distrusted directory alone, or else each distrusted journal or file.

        Raises:
            SpoolError: the directory cannot be read.
        """
        found: list[Distrust] = []
        with self._opened() as journals:
            if journals is None:
                return []
            if why := self._distrust(journals):
                return [why]
            for name in self._named(journals, self._ending):
                with ExitStack() as stack:
                    try:
                        folder = stack.enter_context(Folder(journals.path / name, journals).trusted())
                        for file in (OWNER, *_entries(folder)):
                            os.close(folder.open_trusted(file))
                    except Untrusted as exc:
                        found.append(exc.why)
                    except OSError:  # removed meanwhile, or another user's
                        continue
        return found

    @contextmanager
    def _opened(self) -> Iterator[Folder | None]:
        """The directory of all journals; `None` where there is none yet."""
        try:
            with Folder(self.directory.parent) as spool:
                journals = Folder(self.directory, spool)
        except FileNotFoundError:
            yield None
            return
        except OSError as exc:
            raise reject(exc, self.directory) from exc
        with journals:
            self._tidy(journals)
            yield journals

    def _distrust(self, journals: Folder) -> Distrust | None:
        """Why no journal is read: the spool's directory, or the directory of the journals in it, is not trusted."""
        try:
            with Folder(self.directory.parent) as spool:
                return spool.distrust() or journals.distrust()
        except OSError as exc:
            raise reject(exc, self.directory) from exc

    def _held(self, journals: Folder, name: str, stack: ExitStack) -> tuple[Folder, Owner] | None:
        """A dead worker's journal, locked for as long as the stack is open; `None` for every other journal."""
        try:
            folder = stack.enter_context(Folder(journals.path / name, journals)).trusted()
            lock = _lock(folder)
        except FileNotFoundError:
            return None  # somebody else has just removed it
        except OSError as exc:
            if name not in self._warned:
                self._warned.add(name)
                fix = f". Type: {exc.why.fix}" if isinstance(exc, Untrusted) else ""
                logger.warning("the journal %s cannot be read: %s%s", journals.path / name, words_of(exc), fix)
            return None
        if lock is None:
            return None
        stack.callback(lock.release)
        return (folder, Owner.read(lock.descriptor)) if _is_dead(journals, folder, lock) else None

    def _named(self, journals: Folder, ending: str) -> list[str]:
        try:
            return [name for name in journals.names() if name.endswith(ending)]
        except OSError as exc:
            raise reject(exc, self.directory) from exc

    def _tidy(self, journals: Folder) -> None:
        """Remove the directories of workers that died while they made them."""
        for name in self._named(journals, UNFINISHED):
            found = journals.stat(name)
            if found is not None and time.time() - found.st_mtime > _ORPHAN_AGE:
                with suppress(OSError), Folder(journals.path / name, journals) as folder:
                    folder.unlink(OWNER, missing_ok=True)
                    os.rmdir(name, dir_fd=journals.descriptor)


def _looked_at(path: Path, journals: Folder, stack: ExitStack) -> tuple[Folder, Lock | None]:
    """A journal's directory, and its lock, if nobody holds the lock and this process may open it."""
    folder, lock = stack.enter_context(Folder(path, journals)), None
    with suppress(OSError):
        lock = _lock(folder)
    if lock is not None:
        stack.callback(lock.release)
    return folder, lock


def _lock(folder: Folder) -> Lock | None:
    """The lock of a journal; `None` while somebody holds it. A missing file `owner` is made: it names no owner.

    Raises:
        OSError: the file cannot be opened, or others may write it.
    """
    lock = Lock(folder.open_trusted(OWNER, os.O_RDWR | os.O_CREAT))
    if lock.take():
        return lock
    lock.leave()
    return None


def _is_dead(journals: Folder, folder: Folder, lock: Lock) -> bool:
    """Whether the owner of an unlocked journal is dead: an owner on another machine must also be silent."""
    try:
        there = journals.stat(folder.path.name) is not None
        return there and (Owner.read(lock.descriptor).is_of_this_machine or is_silent(journals, lock.descriptor))
    except OSError:
        return False


def _entries(folder: Folder) -> list[str]:
    try:
        return [name for name in folder.names() if name.endswith(ENTRY)]
    except OSError:
        return []


def _is_kept(folder: Folder, name: str) -> bool:
    """Whether a file holds a message; `True` also for a file that cannot be read, because it may hold one."""
    try:
        with os.fdopen(folder.open(name, os.O_RDONLY), "rb") as found:
            return found.read(1) not in (b"", State.FREE.value)
    except OSError:
        return True


def _owner_of(folder: Folder) -> Owner:
    try:
        descriptor = folder.open(OWNER, os.O_RDONLY)
    except OSError:
        return Owner()
    try:
        return Owner.read(descriptor)
    finally:
        os.close(descriptor)


def _is_orphaned(owner: Owner) -> bool:
    """Whether a journal's main process is known to be dead, though somebody still holds the journal's lock."""
    if not owner.is_of_this_machine or os.uname().nodename != owner.host:  # another container has other pids
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
