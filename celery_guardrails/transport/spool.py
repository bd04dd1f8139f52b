"""The spool: a directory that keeps what the broker does not take, until it does.

Owns files, one an entry, named so that they sort by time: `TIME-PID-RANDOM.APP.json`. An entry is written as
`...json.writing-PID@HOST`, fsynced and renamed; who ships one renames it to `...json.shipping-PID@HOST` first; one that
cannot be read is set aside as `...json.unreadable`. Shipping an entry twice is harmless, because letters are recognised
by their id and attempts by their number. What is in an entry is in `spooled.py`, who ships it in `shipping.py`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from celery_guardrails import clock
from celery_guardrails.errors import SpoolError
from celery_guardrails.transport.disk import app_slug, slug, sync_directory, words_of
from celery_guardrails.transport.spooled import NewerEntry, Spooled, pack, unpack

__all__ = ["Claim", "Spool", "SpoolStatus"]

logger = logging.getLogger("celery_guardrails.transport")

_CLAIM_AGE = 60.0
"""Seconds after which a claim counts as abandoned whoever holds it: one publish takes a few."""
_LEFTOVER_AGE = 60.0
_ORPHAN_AGE = 3600.0
_HELD = re.compile(r"(?P<entry>.+\.json)\.(?P<how>writing|shipping)-(?P<pid>\d+)@(?P<host>.*)")


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """How a spool stands.

    `entries` wait to be shipped, the oldest since `oldest_at` (`None`: there is none); `bytes` of `limit` are taken,
    `unreadable` files were set aside; `writable` says whether an entry could be put, were it not for `limit`.
    """

    entries: int
    bytes: int
    limit: int
    oldest_at: datetime | None
    unreadable: int
    writable: bool


class Claim:
    """An entry that this process ships: nobody else does meanwhile.

    Attributes:
        name: the entry's name.
        entry: what is to be published.
    """

    def __init__(self, directory: Path, name: str, held: str, entry: Spooled) -> None:
        self.name = name
        self.entry = entry
        self._directory = directory
        self._held = held

    def done(self) -> None:
        """Remove the entry, which the broker has confirmed.

        Raises:
            SpoolError: it cannot be removed, and will be shipped again.
        """
        try:
            (self._directory / self._held).unlink(missing_ok=True)
        except OSError as exc:
            raise SpoolError(str(self._directory), words_of(exc)) from exc

    def release(self) -> None:
        """Give the entry back, to be shipped later."""
        with contextlib.suppress(OSError):  # then it is still claimed, and taken over when the claim is old
            os.rename(self._directory / self._held, self._directory / self.name)


class Spool:
    """A directory of entries.

    Args:
        directory: created when the first entry is written, readable by its owner only. Processes may share it. A
            relative one is below what is the working directory now.
        limit: bytes that all files in it together may take. Processes that write at the same instant may each see the
            others' reservations and refuse, never exceed it by more than an entry that is renamed just then.
        app: the application's name. Entries of another one are left to its own processes.
    """

    def __init__(self, directory: Path, limit: int, app: str = "") -> None:
        self.directory = Path(os.path.abspath(directory))
        self.limit = limit
        self._ending = f".{app_slug(app)}.json"
        self._told: set[str] = set()

    def put(self, entry: Spooled) -> Path:
        """Write an entry so that it survives a crash of this machine, and return its file.

        Raises:
            SpoolError: the directory is full or cannot be written, or the disk is full; nothing was written then.
        """
        try:
            return self._write(pack(entry))
        except (OSError, ValueError) as exc:
            raise SpoolError(str(self.directory), words_of(exc)) from exc

    def is_empty(self) -> bool:
        """Whether nothing of this application's is there to be shipped; cheap. One that cannot be read is not empty."""
        try:
            with os.scandir(self.directory) as found:
                return not any(self._entry_of(item.name) for item in found)
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def names(self) -> list[str]:
        """What could be claimed, the oldest first; leftovers of processes that died while writing are removed.

        Raises:
            SpoolError: the directory cannot be read.
        """
        self._tidy()
        return [item.name for item in self._files() if self._is_free(item)]

    def claim(self, name: str) -> Claim | None:
        """Take one of `names` to ship it; `None` where somebody else has, or it cannot be read.

        A file that is no entry is set aside under another name, one of a newer version or of another user is left
        alone; each with a warning.

        Raises:
            SpoolError: the directory cannot be written, so that what is shipped could not be removed.
        """
        entry = self._entry_of(name)
        if entry is None:
            return None
        held = f"{entry}.shipping-{_me()}"
        try:
            with contextlib.suppress(PermissionError):  # another user's: others may then take it over a little early
                os.utime(self.directory / name)  # a claim's age counts from here
            os.rename(self.directory / name, self.directory / held)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if isinstance(exc, PermissionError) and _may_write(self.directory):
                self._tell(entry, f"is left in the spool: {words_of(exc)}, it is another user's")
                return None
            raise SpoolError(str(self.directory), words_of(exc)) from exc
        return self._opened(entry, held)

    def entries(self) -> Iterator[tuple[Path, Spooled]]:
        """What waits, the oldest first, those that are being shipped included; what cannot be read is passed over.

        Raises:
            SpoolError: the directory cannot be read.
        """
        for item in self._files():
            if self._entry_of(item.name):
                path = self.directory / item.name
                with contextlib.suppress(OSError, ValueError, NewerEntry):
                    yield path, unpack(path.read_bytes())

    def status(self) -> SpoolStatus:
        """How the spool stands.

        Raises:
            SpoolError: the directory cannot be read.
        """
        files = self._files()
        entries = [item.name for item in files if self._entry_of(item.name)]
        return SpoolStatus(
            entries=len(entries),
            bytes=sum(map(_size, files)),
            limit=self.limit,
            oldest_at=clock.from_epoch(int(entries[0].partition("-")[0]) / 1e9) if entries else None,
            unreadable=sum(item.name.endswith(".unreadable") for item in files),
            writable=self._is_writable(),
        )

    def _write(self, data: bytes) -> Path:
        self._make()
        name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}{self._ending}"
        final, temporary = self.directory / name, self.directory / f"{name}.writing-{_me()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            try:
                self._fill(descriptor, data)
            finally:
                os.close(descriptor)
            os.rename(temporary, final)
            sync_directory(self.directory)
        except BaseException:
            for path in (temporary, final):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        return final

    def _fill(self, descriptor: int, data: bytes) -> None:
        os.fchmod(descriptor, 0o600)  # whatever the umask is
        os.ftruncate(descriptor, len(data))  # reserves: whoever counts from now on counts this
        if self._taken() > self.limit:
            self._tidy()
            taken = self._taken()
            if taken > self.limit:
                others = taken - len(data)
                raise ValueError(f"it is full, {others:,} of {self.limit:,} bytes are taken and {len(data):,} wanted")
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)

    def _make(self) -> None:
        if self.directory.is_dir():
            return
        os.makedirs(self.directory, 0o700, exist_ok=True)
        sync_directory(self.directory.parent)

    def _files(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.directory) as found:
                return sorted(found, key=lambda item: item.name)
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise SpoolError(str(self.directory), words_of(exc)) from exc

    def _taken(self) -> int:
        with os.scandir(self.directory) as found:
            return sum(map(_size, found))

    def _tidy(self) -> None:
        for item in self._files():
            match = _HELD.fullmatch(item.name)
            if match is None or match["how"] != "writing":
                continue
            age = _age(item)
            if age > _ORPHAN_AGE or (age > _LEFTOVER_AGE and _is_dead(match["pid"], match["host"])):
                with contextlib.suppress(OSError):
                    os.unlink(item.path)

    def _entry_of(self, name: str) -> str | None:
        """The entry that a file is or holds for shipping, if it is one of this application's."""
        match = _HELD.fullmatch(name)
        if match is not None:
            name = match["entry"] if match["how"] == "shipping" else ""
        return name if name.endswith(self._ending) and name[:20].isdigit() else None

    def _is_free(self, item: os.DirEntry[str]) -> bool:
        if self._entry_of(item.name) is None:
            return False
        match = _HELD.fullmatch(item.name)
        return match is None or _is_dead(match["pid"], match["host"]) or _age(item) > _CLAIM_AGE

    def _opened(self, entry: str, held: str) -> Claim | None:
        path = self.directory / held
        try:
            return Claim(self.directory, entry, held, unpack(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, NewerEntry) as exc:
            with contextlib.suppress(OSError):
                os.rename(path, self.directory / entry)
            self._tell(entry, f"is left in the spool: {words_of(exc)}")
        except ValueError as exc:
            aside = f"{entry}.unreadable"
            with contextlib.suppress(OSError):
                os.rename(path, self.directory / aside)
            self._tell(entry, f"cannot be read and is set aside as {aside}: {exc}")
        return None

    def _tell(self, entry: str, problem: str) -> None:
        if entry not in self._told:
            self._told.add(entry)
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


def _me() -> str:
    return f"{os.getpid()}@{slug(socket.gethostname())}"


def _size(item: os.DirEntry[str]) -> int:
    try:
        return 0 if item.is_dir(follow_symlinks=False) else item.stat(follow_symlinks=False).st_size
    except OSError:
        return 0  # shipped meanwhile


def _age(item: os.DirEntry[str]) -> float:
    try:
        return time.time() - item.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0


def _is_dead(pid: str, host: str) -> bool:
    """Whether this process is known to have ended: one of another machine never is."""
    if host != slug(socket.gethostname()):
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
