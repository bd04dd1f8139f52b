"""Loopback ports that no other test process takes, not even while the server on one is stopped.

A port is below the range from which the kernel takes ports for outgoing connections, and belongs to this process by
a locked file until the process ends.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

__all__ = ["is_reserved", "reserve_port"]

_LOWEST, _HIGHEST = 10_000, 32_000
_KERNELS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_held: dict[int, IO[str]] = {}


def reserve_port(*offsets: int) -> int:
    """A loopback port that is free, and this process's until it ends.

    Args:
        offsets: further ports that the server opens by itself, counted from this one; they are reserved, too.

    Raises:
        RuntimeError: a thousand ports were all taken.
    """
    chosen = random.Random(os.urandom(16))  # not the global generator: seeded tests would all draw the same
    highest = _highest() - max(offsets, default=0)
    for _ in range(1000):
        port = chosen.randrange(_LOWEST, highest)
        locks = _locked(port, *(port + offset for offset in offsets))
        if locks:
            _held.update(locks)
            return port
    raise RuntimeError(f"no free port between {_LOWEST} and {highest}")


def is_reserved(port: int) -> bool:
    """Whether the port is this process's."""
    return port in _held


def _highest() -> int:
    """Where the kernel begins to take ports for outgoing connections, if that is lower than usual."""
    try:
        return min(_HIGHEST, int(_KERNELS.read_text().split()[0]))
    except (OSError, ValueError, IndexError):  # not Linux
        return _HIGHEST


def _locked(*ports: int) -> dict[int, IO[str]]:
    """The locked files of these ports; none if one of the ports is taken."""
    folder = Path(tempfile.gettempdir()) / f"guardrails-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    locks: dict[int, IO[str]] = {}
    for port in ports:
        lock = locks[port] = (folder / str(port)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            taken = True
        else:
            taken = not _is_free(port)
        if taken:
            for each in locks.values():
                each.close()
            return {}
    return locks


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
