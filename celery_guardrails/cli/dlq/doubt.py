"""Work that may have run already, or may still run: a query leaves it out and names it; by id, the command asks.

Owns which letters these are, and the texts about them. It must not know how a letter is put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery_guardrails import clock
from celery_guardrails.cli.output import ago
from celery_guardrails.cli.project import Project
from celery_guardrails.errors import DeadLetterError
from celery_guardrails.letters.ran import MAY_HAVE_RUN, why_may_have_run
from celery_guardrails.recovery import search
from celery_guardrails.store.filter import Query
from celery_guardrails.store.record import LetterSummary, State

__all__ = ["INCLUDE", "SWITCHED_OFF", "UNDERWAY", "LeftOut", "in_doubt", "left_out", "question", "underway"]

INCLUDE = "--include-may-have-run"
SWITCHED_OFF = (
    "Guardrails is switched off (enabled: False): what is put back runs once, as a plain Celery task. Its letter gets "
    "the outcome, except of a map or chunks, a task that no worker knows and a worker that is killed: then it stays "
    "requeued."
)
"""What a requeue under the kill switch says before it asks."""
UNDERWAY = "work that was put back may still be on its way: requeue it once more, and it may run twice"
"""What it means to restore a requeued letter."""
_NAMED, _LISTED = 3, 100


@dataclass(frozen=True)
class LeftOut:
    """Letters of a query that a requeue leaves alone: how many, why they are dead, and the ids of the first 100."""

    count: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    ids: tuple[str, ...] = ()

    def words(self, project: Project, terms: Sequence[str]) -> str:
        """How many, which, and what to type to see them all; `terms`: those of the query."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.items())
        named = ", ".join(self.ids[:_NAMED]) + (", ..." if self.count > _NAMED else "")
        look = project.typed("dlq list", " ".join([*terms, "may_have_run:yes"]))
        return (
            f"Left out: {self.count:,} that {MAY_HAVE_RUN} ({reasons}): {named}. Look at each first: "
            f"{look}, then `dlq show ID`; {INCLUDE} puts them back unseen"
        )

    def as_json(self) -> dict[str, Any]:
        """For `--json`: how many, by reason, and the ids of the first 100."""
        return {"count": self.count, "reasons": dict(self.reasons), "ids": list(self.ids)}


def left_out(project: Project, wanted: Query) -> LeftOut:
    """The letters of a query that may have run already."""
    doubtful = wanted.with_term("may_have_run", "yes")
    found = search.stats(project.archive, doubtful)
    if not found.total:
        return LeftOut()
    page = search.search(project.archive, doubtful, _LISTED)
    return LeftOut(found.total, found.by_reason, tuple(letter.id for letter in page.letters))


def in_doubt(project: Project, ids: Sequence[str]) -> list[LetterSummary]:
    """The dead letters with these ids that may have run already. An id that is not found is skipped here."""
    return [letter for letter in _found(project, ids) if letter.may_have_run and letter.state is State.DEAD]


def underway(project: Project, ids: Sequence[str]) -> str:
    """What to ask before requeued letters with these ids are restored; empty if none is requeued."""
    requeued = [letter for letter in _found(project, ids) if letter.state is State.REQUEUED]
    since = [letter.requeued_at for letter in requeued if letter.requeued_at is not None]
    if not requeued:
        return ""
    named = ", ".join(letter.id for letter in requeued[:_NAMED]) + (", ..." if len(requeued) > _NAMED else "")
    verb = "was" if len(requeued) == 1 else "were first"
    return f"{named} {verb} requeued {ago(min(since, default=None), clock.now())}, and {UNDERWAY}."


def _found(project: Project, ids: Sequence[str]) -> Iterator[LetterSummary]:
    for given in ids:
        try:
            yield search.get(project.archive, given).summary
        except DeadLetterError:
            continue


def question(letters: Sequence[LetterSummary]) -> str:
    """What to ask before these letters are put back."""
    first = letters[0]
    if len(letters) == 1:
        return f"{first.id} {MAY_HAVE_RUN}: {why_may_have_run(first.reason)}."
    ids = ", ".join(letter.id for letter in letters[:_NAMED]) + (", ..." if len(letters) > _NAMED else "")
    return f"{len(letters):,} of these {MAY_HAVE_RUN}: {ids}."
