"""The journal as its worker writes it: a directory below the spool's, with one small file for each running message.

    keep (whole message, fsynced) -> broker takes the acknowledgement -> the task runs -> done

Owns those files and their directory. The directory is held open, so nothing is written through a link. A file is used
again for the next message: writing over a file costs one sync, a new file costs three. A finished message is marked
without a sync: after a power cut it may be back, as a message that may have run. `abandoned.py` finds the journals of
dead workers.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from celery_guardrails.access import make_directory
from celery_guardrails.errors import SpoolError
from celery_guardrails.transport.disk import app_slug, sync_directory
from celery_guardrails.transport.folder import Folder, reject
from celery_guardrails.transport.journal.entry import State, Taken, pack, unpack
from celery_guardrails.transport.journal.ownership import OWNER, SIGN_OF_LIFE, Lock, Owner
from celery_guardrails.transport.spooled import NewerEntry

__all__ = ["ENTRY", "FOLDER", "UNFINISHED", "Journal", "Slot"]

FOLDER = "journal"
"""The directory of all journals, below the spool's."""
ENTRY = ".entry"
UNFINISHED = ".new"
"""The ending of a journal's directory until its owner holds its lock."""

_SPARE = 32
"""Files kept for the next messages."""
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
_LARGE = 1 << 20
"""A file that is larger, in bytes, is cut when its message is done."""
_sync_data = getattr(os, "fdatasync", os.fsync)


class Slot:
    """One message that is kept until its end is settled. Its methods never raise, and may be called from any thread."""

    __slots__ = ("_journal", "descriptor", "name", "size")

    def __init__(self, journal: Journal, name: str, descriptor: int) -> None:
        self._journal = journal
        self.name = name
        self.descriptor = descriptor
        self.size = 0

    def acknowledged(self) -> None:
        """Mark the message as acknowledged: its broker will not deliver it again."""
        self._mark(State.ACKNOWLEDGED)

    def done(self, reuse: bool = True) -> None:
        """Mark the message as done: its end is settled, so the journal no longer keeps it.

        Args:
            reuse: whether the file may hold the next message. `False` where the process that ran the task may still
                live, and may still mark the file (`Journal.mark_done`).
        """
        self._mark(State.FREE)
        self._journal._free(self, reuse)

    def _mark(self, state: State) -> None:
        with suppress(OSError):  # then the old state stays: a finished message may be reported
            os.pwrite(self.descriptor, state.value, 0)


class Journal:
    """The journal of one worker. Its directory is made when it is first needed, and removed at the end.

    Args:
        directory: the spool's; created when it is missing, readable by its owner only.
        limit: bytes that this worker's journal may take. A single message is always taken, whatever its size.
        app: the application's name. Only processes of the same application read what a dead worker left.
    """

    def __init__(self, directory: Path, limit: int, app: str = "") -> None:
        self.directory = Path(os.path.abspath(directory)) / FOLDER
        self.limit = limit
        self._ending = f".{app_slug(app)}"
        self._lock = threading.RLock()
        self._held: tuple[Folder, Lock] | None = None
        self._spare: list[Slot] = []
        self._live: set[Slot] = set()
        self._taken = self._count = 0
        self._pid = 0
        self._closing = False
        self._beaten = 0.0

    def open(self, worker: str) -> None:
        """Make the directory and take its lock; does nothing if that is done already.

        The pool's children also hold a lock that was taken before the pool forked them: as long as a child runs a task,
        nobody reports the task as lost.

        Args:
            worker: the worker's node name.

        Raises:
            SpoolError: the directory cannot be made.
        """
        with self._lock:
            if self._held is not None and self._pid == os.getpid():
                return
            try:
                self._held, self._pid = self._made(Owner.me(worker)), os.getpid()
            except OSError as exc:
                raise reject(exc, self.directory) from exc
            self._spare, self._live, self._taken = [], set(), 0

    def keep(self, entry: Taken) -> Slot:
        """Write a message so that it survives a crash of this machine.

        Raises:
            SpoolError: the directory cannot be written, the journal is full, or the disk is full; nothing is kept.
            ValueError: the message cannot be written as JSON.
        """
        data = pack(entry)
        self.open(entry.worker)
        try:
            with self._lock:
                slot, is_new = self._slot(len(data))
            self._write(slot, data, is_new)
        except OSError as exc:
            raise reject(exc, self.directory) from exc
        return slot

    def beat(self) -> None:
        """Give a sign of life, for other machines to see, at most every 10 seconds; never raises."""
        held = self._held
        if held is not None and self._pid == os.getpid() and time.monotonic() - self._beaten >= SIGN_OF_LIFE:
            self._beaten = time.monotonic()
            with suppress(OSError):
                os.utime(held[1].descriptor)

    def mark_done(self, task_id: str, is_it: Callable[[Taken], bool]) -> None:
        """Mark a message as done from the process that ran its task; never raises.

        That process is a child of the main process, or the main process itself. A child marks the message before the
        main process knows of the end: the main process may die while it looks for its broker, and then nobody must
        report a message whose end the child has settled.

        Args:
            task_id: the task's id.
            is_it: whether an entry is the message in question.
        """
        if self._held is None:
            return
        folder = self._held[0]
        with suppress(OSError):
            for name in (name for name in folder.names() if name.endswith(ENTRY)):
                if _freed(folder, name, task_id, is_it):
                    return

    def close(self) -> None:
        """End the journal with its worker: remove the directory once it keeps no message; never raises."""
        with self._lock:
            self._closing = True
            self._remove_if_done()

    def _made(self, owner: Owner) -> tuple[Folder, Lock]:
        for made in make_directory(self.directory):
            sync_directory(made.parent)
        name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}{self._ending}"
        with Folder(self.directory.parent) as spool, Folder(self.directory, spool) as journals:
            folder, lock = journals.make(f"{name}{UNFINISHED}"), None
            try:
                lock = Lock(folder.open(OWNER, _NEW))
                os.write(lock.descriptor, owner.written())
                os.fsync(lock.descriptor)
                lock.take()
                journals.rename(folder.path.name, name)
                folder.path = self.directory / name
                folder.sync()
                journals.sync()
            except BaseException:
                if lock is not None:
                    lock.release()
                _remove(folder)
                raise
        return folder, lock

    def _slot(self, size: int) -> tuple[Slot, bool]:
        """A file for so many bytes, and whether the file is new; a spare file is used first."""
        if self._live and self._taken + size > self.limit:
            words = f"it is full, {self._taken:,} of {self.limit:,} bytes are taken and {size:,} wanted"
            raise SpoolError(str(self.directory), words)
        is_new = not self._spare
        slot = self._new_slot() if is_new else self._spare.pop()
        slot.size = size
        self._taken += size
        self._live.add(slot)
        return slot, is_new

    def _new_slot(self) -> Slot:
        assert self._held is not None
        self._count += 1
        name = f"{self._count:06d}{ENTRY}"
        try:
            return Slot(self, name, self._held[0].open(name, _NEW))
        except FileNotFoundError:  # somebody has removed the directory
            self._held = None  # the next message makes another
            raise

    def _write(self, slot: Slot, data: bytes, is_new: bool) -> None:
        try:
            rest, at = memoryview(data), 0
            while at < len(data):
                at += os.pwrite(slot.descriptor, rest[at:], at)
            if is_new:
                assert self._held is not None
                os.fsync(slot.descriptor)
                self._held[0].sync()
            else:
                _sync_data(slot.descriptor)
            if not os.fstat(slot.descriptor).st_nlink:
                self._held = None  # the next message makes another
                raise FileNotFoundError(errno.ENOENT, "somebody has removed it")
        except BaseException:
            with suppress(OSError):
                os.ftruncate(slot.descriptor, 0)  # gives its room back, and leaves nothing half
            self._free(slot)
            raise

    def _free(self, slot: Slot, reuse: bool = True) -> None:
        """Make a slot a spare one; does nothing for one that is."""
        with self._lock:
            if slot not in self._live or self._pid != os.getpid():
                return
            self._live.discard(slot)
            self._taken -= slot.size
            with suppress(OSError):
                if reuse and len(self._spare) < _SPARE and not self._closing:
                    if slot.size > _LARGE:
                        os.ftruncate(slot.descriptor, 0)
                    self._spare.append(slot)
                else:
                    self._drop(slot)
            self._remove_if_done()

    def _drop(self, slot: Slot) -> None:
        os.close(slot.descriptor)
        if self._held is not None:
            self._held[0].unlink(slot.name, missing_ok=True)

    def _remove_if_done(self) -> None:
        if not self._closing or self._live or self._held is None or self._pid != os.getpid():
            return
        (folder, lock), self._held = self._held, None
        with suppress(OSError):  # what is left of it holds nothing: whoever finds it removes it
            spare, self._spare = self._spare, []
            for slot in spare:
                os.close(slot.descriptor)
                folder.unlink(slot.name, missing_ok=True)
        _remove(folder)
        lock.leave()


def _remove(folder: Folder) -> None:
    """Remove a journal's directory if it holds nothing but its owner's name, and let go of it; never raises."""
    with suppress(OSError):
        folder.unlink(OWNER, missing_ok=True)
        os.rmdir(folder.path)
    folder.close()


def _freed(folder: Folder, name: str, task_id: str, is_it: Callable[[Taken], bool]) -> bool:
    """Whether a file held this message, which is marked as done."""
    with suppress(OSError, ValueError, NewerEntry), os.fdopen(folder.open(name, os.O_RDWR), "r+b") as found:
        data = found.read()
        taken = unpack(data)[1] if json.dumps(task_id).encode() in data else None
        if taken is not None and is_it(taken):
            os.pwrite(found.fileno(), State.FREE.value, 0)
            return True
    return False
