"""Journals of workers that are dead: found, held by one process at a time, and emptied entry by entry.

Owns how they are found, and removing them. What becomes of an entry is its caller's business. One that cannot be read
is set aside beside them as `...unreadable`, and keeps nothing else from being read.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from celery_guardrails.errors import SpoolError
from celery_guardrails.transport.disk import app_slug, words_of
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
    """How the journals of one directory stand.

    `alive` are those of workers that live; `held` name those whose main process is dead while a child of it runs on;
    `entries` were left by dead workers and are no letters yet; `unreadable` files were set aside.
    """

    alive: int
    held: tuple[Owner, ...]
    entries: int
    unreadable: int


class Left:
    """A message that a dead worker left.

    Attributes:
        taken: the message.
        state: `WRITTEN`, where nobody knows whether its broker took the acknowledgement, or `ACKNOWLEDGED`.
    """

    def __init__(self, path: Path, state: State, taken: Taken) -> None:
        self.state = state
        self.taken = taken
        self._path = path

    def done(self) -> None:
        """Remove it: it is a letter, or still with its broker.

        Raises:
            SpoolError: it cannot be removed, and comes again.
        """
        try:
            self._path.unlink(missing_ok=True)
        except OSError as exc:
            raise SpoolError(str(self._path.parent), words_of(exc)) from exc


class Abandoned:
    """A dead worker's journal, which this process holds.

    Attributes:
        owner: whose it was.
    """

    def __init__(self, directory: Path, owner: Owner, told: set[str]) -> None:
        self.directory = directory
        self.owner = owner
        self._told = told

    def entries(self) -> Iterator[Left]:
        """What is in it, the oldest file first. What cannot be read is set aside, or left to a newer version."""
        for path in _entries(self.directory):
            try:
                state, taken = unpack(path.read_bytes())
            except (OSError, NewerEntry) as exc:
                self._tell(path, f"is left where it is: {words_of(exc)}")
            except ValueError as exc:
                self._set_aside(path, exc)
            else:
                if taken is not None:
                    yield Left(path, state, taken)
                else:
                    with suppress(OSError):
                        path.unlink()

    def remove(self) -> None:
        """Remove the directory, if nothing is left in it; never raises."""
        with suppress(OSError):
            if not _entries(self.directory):
                (self.directory / OWNER).unlink(missing_ok=True)
                self.directory.rmdir()

    def _set_aside(self, path: Path, exc: ValueError) -> None:
        aside = self.directory.parent / f"{self.directory.name}-{path.name}{_UNREADABLE}"
        with suppress(OSError):
            os.rename(path, aside)
        words = f"cannot be read and is set aside as {aside.name}: {exc}; if its worker died while it wrote it, "
        self._tell(path, f"{words}the message was not acknowledged and comes again")

    def _tell(self, path: Path, problem: str) -> None:
        if str(path) not in self._told:
            self._told.add(str(path))
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
        self._told: set[str] = set()

    def abandoned(self) -> Iterator[Abandoned]:
        """The journals of dead workers, each held until the next one is asked for; cheap where all workers live.

        Raises:
            SpoolError: the directory cannot be read.
        """
        for path in self._paths():
            lock = self._lock(path)
            if lock is None:
                continue
            try:
                owner = Owner.read(lock.descriptor)
                if self._is_dead(path, owner, lock):
                    yield Abandoned(path, owner, self._told)
            finally:
                lock.release()

    def status(self) -> JournalStatus:
        """How they stand.

        Raises:
            SpoolError: the directory cannot be read.
        """
        alive, entries, held = 0, 0, []
        for path in self._paths():
            lock = self._lock(path, quiet=True)
            if lock is not None and self._is_dead(path, Owner.read(lock.descriptor), lock):
                entries += sum(map(_is_kept, _entries(path)))
            elif _is_orphaned(owner := _owner_of(path)):
                held.append(owner)
            else:
                alive += 1
            if lock is not None:
                lock.release()
        return JournalStatus(alive, tuple(held), entries, len(self._named(_UNREADABLE)))

    def _paths(self) -> list[Path]:
        self._tidy()
        return self._named(self._ending)

    def _named(self, ending: str) -> list[Path]:
        try:
            with os.scandir(self.directory) as found:
                return sorted(Path(item.path) for item in found if item.name.endswith(ending))
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise SpoolError(str(self.directory), words_of(exc)) from exc

    def _tidy(self) -> None:
        """Remove the directories of workers that died while they made them."""
        for path in self._named(UNFINISHED):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ORPHAN_AGE:
                    (path / OWNER).unlink(missing_ok=True)
                    path.rmdir()

    def _lock(self, path: Path, quiet: bool = False) -> Lock | None:
        """The lock of a journal that nobody holds. A file `owner` that is missing is made: it is nobody's."""
        try:
            lock = Lock(os.open(path / OWNER, os.O_RDWR | os.O_CREAT, 0o600))
        except FileNotFoundError:
            return None  # somebody else has just removed it
        except OSError as exc:
            if not quiet and path.name not in self._told:
                self._told.add(path.name)
                logger.warning("the journal %s cannot be looked at: %s", path, words_of(exc))
            return None
        if lock.take():
            return lock
        lock.leave()
        return None

    def _is_dead(self, path: Path, owner: Owner, lock: Lock) -> bool:
        """Whether the owner of a journal that nobody holds is dead: on another machine it must be silent, too."""
        try:
            return path.exists() and (owner.is_of_this_machine or is_silent(self.directory, lock.descriptor))
        except OSError:
            return False


def _entries(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as found:
            return sorted(Path(item.path) for item in found if item.name.endswith(ENTRY))
    except OSError:
        return []


def _is_kept(path: Path) -> bool:
    """Whether a file holds a message; of one that cannot be read nobody knows."""
    try:
        with path.open("rb") as found:
            return found.read(1) not in (b"", State.FREE.value)
    except OSError:
        return True


def _owner_of(path: Path) -> Owner:
    try:
        descriptor = os.open(path / OWNER, os.O_RDONLY)
    except OSError:
        return Owner()
    try:
        return Owner.read(descriptor)
    finally:
        os.close(descriptor)


def _is_orphaned(owner: Owner) -> bool:
    """Whether the main process that owned a journal is known to be dead, and yet somebody holds its lock."""
    if not owner.is_of_this_machine or os.uname().nodename != owner.host:  # another container has other pids
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
