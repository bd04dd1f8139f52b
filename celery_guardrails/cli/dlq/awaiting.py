"""Waiting for requeued work: what became of it, as far as the archive knows.

Reads only. A guardian confirms recoveries. Without one the archive never learns of them, and a note says so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from celery_guardrails import clock
from celery_guardrails.cli.output import note, progress
from celery_guardrails.cli.project import Project
from celery_guardrails.command import celery_command
from celery_guardrails.recovery import search
from celery_guardrails.store import lease
from celery_guardrails.store.filter import Query
from celery_guardrails.store.record import State

__all__ = ["Awaited", "await_recovery"]

_LOOK_EVERY = 0.5
_PATIENCE = 15.0
"""Seconds after which a note says that no guardian runs: one that was just started needs a few to be seen."""


@dataclass(frozen=True)
class Awaited:
    """What became of requeued letters; `unknown`: neither recovered nor dead again when the time was over."""

    recovered: int = 0
    dead_again: int = 0
    unknown: int = 0

    @property
    def all_recovered(self) -> bool:
        """Whether all of them have succeeded."""
        return not (self.dead_again or self.unknown)

    def __str__(self) -> str:
        parts = [f"{self.recovered:,} recovered"]
        parts += [f"{self.dead_again:,} died again"] if self.dead_again else []
        parts += [f"{self.unknown:,} not known yet"] if self.unknown else []
        return ", ".join(parts) + "."


def await_recovery(project: Project, ids: Sequence[str], seconds: float) -> Awaited:
    """Wait until each of these letters is recovered or dead again.

    Args:
        project: the application.
        ids: whole ids of letters that were just requeued, or unambiguous beginnings of them.
        seconds: the longest time to wait.
    """
    began = time.monotonic()
    until, looked = began + seconds, False
    left, counts = list(ids), dict.fromkeys(State, 0)
    with progress("waiting for recovery", len(left)) as advance:
        while True:
            states = {letter_id: _state(project, letter_id) for letter_id in left}
            settled = [letter_id for letter_id, state in states.items() if state is not State.REQUEUED]
            for letter_id in settled:
                counts[states[letter_id]] += 1
            advance(len(settled))
            left = [letter_id for letter_id in left if states[letter_id] is State.REQUEUED]
            over = not left or time.monotonic() >= until
            if left and not looked and (over or time.monotonic() >= began + _PATIENCE):
                looked = True
                _note_missing_guardian(project)
            if over:
                break
            time.sleep(min(_LOOK_EVERY, max(0.0, until - time.monotonic())))
    return Awaited(counts[State.RECOVERED], counts[State.DEAD] + counts[State.DISCARDED], len(left))


def _note_missing_guardian(project: Project) -> None:
    with project.archive.read() as conn:
        alive = lease.guardians(conn, seen_since=clock.now() - lease.ALIVE)
    if not alive:
        note(f"No guardian runs, so no recovery is confirmed. Start one: {celery_command(project.name, 'guardian')}")


def _state(project: Project, letter_id: str) -> State:
    page = search.search(project.archive, Query().with_term("id", letter_id), 1)
    # A letter that is not there was pruned: only letters that need no decision are.
    return page.letters[0].state if page.letters else State.RECOVERED
