"""The archive as the chaos suite reads it: straight from the SQLite file, so that no code of the product is believed.

Owns the two queries.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Archived", "archived", "letters"]


@dataclass(frozen=True)
class Archived:
    """One piece of dead work; `payload` is the letter of its latest death as it was published."""

    id: str
    task: str
    task_id: str
    state: str
    reason: str
    payload: bytes


def letters(path: Path) -> list[Archived]:
    """All dead letters."""
    query = (
        "SELECT l.id, l.task, l.task_id, l.state, l.reason, d.payload FROM guardrails_dead_letter l"
        " LEFT JOIN guardrails_death d ON d.id = l.death_id ORDER BY l.id"
    )
    with contextlib.closing(_opened(path)) as conn:
        return [Archived(*row[:5], bytes(row[5] or b"")) for row in conn.execute(query)]


def archived(path: Path) -> int:
    """How many dead letters there are; 0 while there is no archive."""
    try:
        with contextlib.closing(_opened(path)) as conn:
            return int(conn.execute("SELECT count(*) FROM guardrails_dead_letter").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
