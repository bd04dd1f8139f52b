"""Who may read and write a file: guardrails' own are for their owner alone; one that others may write is not trusted.

Owns how a private file or directory is made, and the rule by which an existing one is trusted:

    it belongs to the user of this process, or to root; and nobody else may write it.

A group may write where it stands for the owner alone: root's group, the user's own (it has the user's name, and no
other member), or one that has no name on this machine and that this process is in (Kubernetes' `fsGroup`). Where an
access control list names further users, the group counts as others. Users who may write a directory above can take the
whole directory away, but nothing that they put in its place is trusted. It must not know what is in a file.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from celery_guardrails.command import shell_quote

__all__ = ["Distrust", "distrust", "exposure", "make_directory", "make_file", "movable_by", "user_name", "writable_by"]

_FILE, _DIRECTORY = 0o600, 0o700
_ROOT = 0
_ACL = "system.posix_acl_access"


@dataclass(frozen=True, slots=True)
class Distrust:
    """Why a file or a directory is not trusted: `reason` are words to follow its path, `fix` is the line to type."""

    path: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


def make_file(path: Path) -> bool:
    """Make an empty file that only its owner may read, whatever the umask is; returns whether it made one.

    Never raises: who opens the file later gets the error.
    """
    try:
        place = os.path.realpath(path)
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE)
    except OSError:
        return False
    try:
        os.fchmod(descriptor, _FILE)
    finally:
        os.close(descriptor)
    return True


def make_directory(path: Path) -> list[Path]:
    """Make a directory, and those above it that are missing, for their owner alone, whatever the umask is.

    Returns:
        The directories that were missing, the outermost first.

    Raises:
        OSError: it cannot be made.
    """
    missing: list[Path] = []
    while not os.path.lexists(path):
        missing.insert(0, path)
        path = path.parent
    for each in missing:
        with suppress(FileExistsError):  # another process was quicker
            os.mkdir(each, _DIRECTORY)
            descriptor = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchmod(descriptor, _DIRECTORY)
            finally:
                os.close(descriptor)
    return missing


def distrust(descriptor: int, path: str, *, folder: bool = False) -> Distrust | None:
    """Why an open file or directory is not trusted; `None`: it is trusted.

    Looks at what is open, not at the path, where somebody may have put something else meanwhile.

    Args:
        descriptor: of a directory or a file.
        path: its path, for the words.
        folder: whether it should be a directory, and not a regular file.

    Raises:
        OSError: it cannot be looked at.
    """
    found = os.fstat(descriptor)
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(found.st_mode):
        return Distrust(path, "is not a directory" if folder else "is not a regular file", f"rm -r {_typed(path)}")
    if found.st_uid not in (_ROOT, os.geteuid()):
        me = user_name(os.geteuid())
        words = f"belongs to {user_name(found.st_uid)}, but this process runs as {me}"
        return Distrust(path, words, f"chown {me} {_typed(path)}")
    loose = _loose(found, descriptor, path)
    return loose and replace(loose, fix=f"chmod {_DIRECTORY if folder else _FILE:o} {_typed(path)}")


def exposure(files: Sequence[Path]) -> list[Distrust]:
    """Which private files or directories others may read, and which belong to the wrong user; changes nothing.

    They should belong to the user of this process or, where root looks, to the owner of the first one's directory.

    Args:
        files: existing ones; the first, and those beside it that belong to it.

    Raises:
        OSError: one cannot be looked at.
    """
    me, found = os.geteuid(), {file: file.stat() for file in files}
    owner = files[0].resolve().parent.stat().st_uid if me == _ROOT and files else me
    loose = [file for file, seen in found.items() if _is_readable(seen, file)]
    foreign = [file for file, seen in found.items() if seen.st_uid not in (me, owner)]
    wrong = []
    if loose:
        words = f"can be read by others than its owner (mode {stat.S_IMODE(found[loose[0]].st_mode):04o})"
        wrong.append(_of_several(loose, words, f"chmod {_DIRECTORY if loose[0].is_dir() else _FILE:o}"))
    if foreign:
        words = f"belongs to {user_name(found[foreign[0]].st_uid)}, not to {user_name(owner)}"
        wrong.append(_of_several(foreign, words, f"chown {user_name(owner)}"))
    return wrong


def _is_readable(found: os.stat_result, file: Path) -> bool:
    """Whether others may read it; the owner's own group does not count, but root's group does: others may join it."""
    group = not _is_own_group(found.st_gid, os.geteuid()) or found.st_gid == _ROOT or _has_acl(file)
    return bool(found.st_mode & (0o077 if group else 0o007))


def _of_several(files: Sequence[Path], words: str, command: str) -> Distrust:
    more = f", like {len(files) - 1} more beside it" if len(files) > 1 else ""
    return Distrust(str(files[0]), words + more, " ".join([command, *(_typed(str(file)) for file in files)]))


def movable_by(path: Path) -> Distrust | None:
    """The nearest directory above a path whose entries others may rename and remove; `None`: there is no such one.

    A directory with the sticky bit (`/tmp`) does not count: only its owner may rename or remove an entry there.
    """
    for above in path.absolute().parents:
        with suppress(OSError):
            if not above.stat().st_mode & stat.S_ISVTX and (found := writable_by(above)):
                return found
    return None


def writable_by(path: Path) -> Distrust | None:
    """Who else than its owner may write a directory or a file; `None`: nobody.

    Raises:
        OSError: it cannot be looked at.
    """
    return _loose(path.stat(), path, str(path))


def user_name(uid: int) -> str:
    """A user's name, or the number where this machine has no name for it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _loose(found: os.stat_result, place: int | Path, path: str) -> Distrust | None:
    who, letters = "", ""
    if found.st_mode & stat.S_IWGRP and (not _is_own_group(found.st_gid, os.geteuid()) or _has_acl(place)):
        who, letters = f"the group {_group_name(found.st_gid)}", "g"
    if found.st_mode & stat.S_IWOTH:
        who, letters = "every user", f"{letters}o"
    if not letters:
        return None
    words = f"can be written by {who} (mode {stat.S_IMODE(found.st_mode):04o})"
    return Distrust(path, words, f"chmod {letters}-w {_typed(path)}")


def _typed(path: str) -> str:
    """The absolute path, quoted for a shell."""
    return shell_quote(os.path.abspath(path))


def _has_acl(place: int | Path) -> bool:
    """Whether there is an access control list: the group's bits are then its mask, and hold for further users, too."""
    try:
        return bool(os.getxattr(place, _ACL))
    except (OSError, AttributeError):
        return False


@lru_cache(maxsize=64)
def _is_own_group(gid: int, uid: int) -> bool:
    """Whether only root and this process's user are in a group, as far as this machine knows."""
    if gid == _ROOT:
        return True
    me = user_name(uid)
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return gid == os.getegid() or gid in os.getgroups()
    return group.gr_name == me and set(group.gr_mem) <= {me, user_name(_ROOT)}


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
