"""The canary's worker as the command sees it: a process that is started, watched and ended by its pid."""
# on its own: it is the command's side; worker_process.py runs in the worker and shares nothing with it

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from celery_guardrails.text import cut, one_line

__all__ = ["CanaryWorker"]

_PATIENCE = 10.0
_LONGEST_WORDS = 300


class CanaryWorker:
    """A worker process for one queue.

    Args:
        app: what to write after `celery -A`.
        queue: the canary's queue.
        folder: where its journal and its log go.
    """

    def __init__(self, app: str, queue: str, folder: Path) -> None:
        self.journal_path = folder / "journal"
        self._log = folder / "worker.log"
        module = ["-m", "celery_guardrails.cli.doctor.self_test.worker_process"]
        command = [sys.executable, *module, app, queue, str(self.journal_path), str(os.getpid())]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def ended(self) -> int | None:
        """Its exit code, or `None` while it runs."""
        return self._process.poll()

    def log(self) -> str:
        """Its whole log."""
        return self._log.read_text("utf-8", errors="replace") if self._log.exists() else ""

    def last_words(self) -> str:
        """The last line of its log, cut."""
        lines = [one_line(line) for line in self.log().splitlines() if line.strip()]
        return cut(lines[-1], _LONGEST_WORDS) if lines else "its log is empty"

    def stop(self) -> None:
        """End it by SIGTERM, after ten seconds by SIGKILL."""
        if self.ended is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
        if self.ended is None:
            self._process.kill()
        self._process.wait()
