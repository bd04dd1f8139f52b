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

__all__ = ["reserve_port"]

_LOWEST, _HIGHEST = 10_000, 32_000
_held: list[IO[str]] = []


def reserve_port() -> int:
    """A loopback port that is free, and this process's until it ends.

    Raises:
        RuntimeError: a thousand ports were all taken.
    """
    folder = Path(tempfile.gettempdir()) / f"guardrails-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    chosen = random.Random(os.urandom(16))  # not the global generator: seeded tests would all draw the same
    for _ in range(1000):
        port = chosen.randrange(_LOWEST, _HIGHEST)
        lock = (folder / str(port)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        if _is_free(port):
            _held.append(lock)
            return port
        lock.close()
    raise RuntimeError(f"no free port between {_LOWEST} and {_HIGHEST}")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
