"""Ends the processes that the tests started, even when pytest itself is killed.

One small child process a test process: it is told each pid over a pipe, and when that pipe closes, because the
test process ended in whatever way, it kills those that are left. A pid is killed only while it is still the process
that was told, by its start time.
"""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache

__all__ = ["Reaper", "reaper"]

_CODE = """
import os, signal, sys

def started(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[19]
    except OSError:
        return None

watched = {}
for line in sys.stdin:
    verb, pid = line.split()
    if verb == "watch":
        watched[int(pid)] = started(int(pid))
    else:
        watched.pop(int(pid), None)
for pid, start in watched.items():
    if start is not None and started(pid) == start:
        try:
            (os.killpg if os.getpgid(pid) == pid else os.kill)(pid, signal.SIGKILL)
        except OSError:
            pass
"""


class Reaper:
    """Kills what it watches when this test process is gone. A process that leads its group goes with the group."""

    def __init__(self) -> None:
        # -S: no site, so that coverage does not start in it; a session of its own, so that Ctrl-C does not end it
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CODE], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def watch(self, pid: int) -> None:
        """Kill this process when the test process ends."""
        self._tell("watch", pid)

    def forget(self, pid: int) -> None:
        """Leave this process alone: it has ended, and its pid may come again."""
        self._tell("forget", pid)

    def close(self) -> None:
        """Kill what is still watched, now."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, verb: str, pid: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{verb} {pid}\n")
        self._process.stdin.flush()


@lru_cache(maxsize=1)
def reaper() -> Reaper:
    """This test process's reaper; started at the first call."""
    return Reaper()
