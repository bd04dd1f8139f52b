"""Runs the processes of `poster.py`, and says what each is to do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from typing import Any

from tests.harness import ROOT

__all__ = ["KILLED", "Posters", "job"]

KILLED = -signal.SIGKILL


class Posters:
    """Runs posters as processes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.alerts.poster"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pids: list[int] = []
        self.known = threading.Event()

    def run(self, *jobs: dict) -> list[int]:
        """Run jobs at the same time; how each process ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.known.clear()
        self._process.stdin.write(json.dumps(jobs) + "\n")
        self._process.stdin.flush()
        self.pids = json.loads(self._process.stdout.readline())
        self.known.set()
        ends: list[int] = json.loads(self._process.stdout.readline())
        return ends

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def job(
    driver: Any,
    settings: dict[str, Any],
    sink: str,
    kind: str,
    step: str | None = None,
    after: float = 0.0,
    *,
    hurries: bool = True,
) -> dict[str, Any]:
    """What one poster is to do.

    Args:
        driver: has the archive and the instant.
        settings: the guardrails of the application.
        sink: whose call `step` may mean.
        kind: the method of this sink: `post` or `reply`.
        step: where the poster is killed; `None`: nowhere.
        after: seconds by which it is later than the driver.
        hurries: while another one posts, its clock goes so fast that the other's lease expires, perhaps while that one
            sends.
    """
    return {
        "store": driver.store.engine.url.render_as_string(hide_password=False), "settings": settings, "sink": sink,
        "now": (driver.now + timedelta(seconds=after)).isoformat(), "step": step, "kind": kind, "hurries": hurries,
        "pager_file": f"{driver.store.engine.url.database}.pager",
    }  # fmt: skip
