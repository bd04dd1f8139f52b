"""The ledger of a chaos run: what was submitted and what ran, one line each, written by many processes.

Owns the file. Each line is one `write` to a file opened with O_APPEND: it is whole or absent, and what is written
survives the death of its writer. It knows nothing of Celery.

Lines: `try` (about to publish: id, kind, what was sent), `sure` (the publish was confirmed), `revoke` (a revoke was
sent), `took` (a worker received at-most-once work), `begin` and `end` (of a body: id, attempt, pid, worker), `gone` (a
worker dropped it: revoked or expired).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Ledger", "Run", "Sent", "Told", "read"]


@dataclass
class Sent:
    """One task that was submitted. `sure`: its publish was confirmed; a link of a chain is as sure as its parent.

    `after` is the id of the link before it, `digest` that of its arguments.
    """

    id: str
    kind: str
    at: float
    digest: str = ""
    after: str | None = None
    sure: bool = False
    revoked: bool = False


@dataclass
class Run:
    """One execution of a body; `ended_at` is `None` when it did not come to its end (it raised, or was killed)."""

    id: str
    attempt: int
    pid: int
    worker: int
    at: float
    ended_at: float | None = None


@dataclass
class Told:
    """All that a ledger tells.

    `gone` are the ids that a worker dropped by intent, `took` says which worker received at-most-once work and when,
    `torn` counts broken lines.
    """

    sent: dict[str, Sent] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    took: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    torn: int = 0


class Ledger:
    """Writes to a ledger; for any process.

    Args:
        path: the file; it is made by the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, id: str, **facts: Any) -> None:
        """Add one line, at once."""
        line = json.dumps({"e": event, "id": id, "t": round(time.time(), 4), **facts}) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def size(self) -> int:
        """Bytes so far: it grows as long as anything happens."""
        return self.path.stat().st_size if self.path.exists() else 0

    def read(self) -> Told:
        """All that was written so far."""
        return read(self.path.read_text("utf-8").splitlines()) if self.path.exists() else Told()


def read(lines: list[str]) -> Told:
    """What these lines tell."""
    told = Told()
    open_runs: dict[tuple[str, int, int], Run] = {}
    for line in _parsed(lines, told):
        event, id = line["e"], line["id"]
        if event == "try":
            told.sent[id] = Sent(id, line["kind"], line["t"], line.get("digest", ""), line.get("after"))
        elif event == "sure" and id in told.sent:
            told.sent[id].sure = True
        elif event == "revoke" and id in told.sent:
            told.sent[id].revoked = True
        elif event == "gone":
            told.gone.add(id)
        elif event == "took":
            told.took.setdefault(id, []).append((line["worker"], line["t"]))
        elif event == "begin":
            run = Run(id, line["n"], line["pid"], line["worker"], line["t"])
            told.runs.append(run)
            open_runs[id, line["n"], line["pid"]] = run
        elif event == "end":
            run = open_runs.pop((id, line["n"], line["pid"]))
            run.ended_at = line["t"]
    return told


def _parsed(lines: list[str], told: Told) -> Iterator[dict[str, Any]]:
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:
            told.torn += 1
            continue
        yield line
