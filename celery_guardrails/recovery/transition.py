"""Deciding on one dead letter: claim it for a requeue, discard it, restore it, with a name and a reason.

Owns that the change and its audit entry are one transaction, and the error for a person when a change is not possible.
It must not know how a message is published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from celery_guardrails.command import celery_command
from celery_guardrails.errors import InvalidTransition, ReasonRequired
from celery_guardrails.letters.identity import is_letter_id
from celery_guardrails.letters.record import Letter
from celery_guardrails.store import audit, transition
from celery_guardrails.store import claim as claims
from celery_guardrails.store import letter as letters
from celery_guardrails.store.audit import GUARDIAN
from celery_guardrails.store.engine import Store
from celery_guardrails.store.record import LetterSummary, State

__all__ = [
    "GUARDIAN",
    "Claim",
    "claim_requeue",
    "discard",
    "requeue_failed",
    "requeue_finished",
    "requeue_published",
    "restore",
    "take_over",
    "unpublished_claims",
]


@dataclass(frozen=True, slots=True)
class Claim:
    """The right, and the duty, to publish one dead letter again.

    `generation` counts this requeue already. `actor` is who publishes: the person who claimed the letter, or `GUARDIAN`
    once a guardian has taken the claim over. `reason` is always the claimer's. `token` is the secret that the message
    carries.
    """

    id: str
    generation: int
    actor: str
    reason: str
    letter: Letter
    token: str = field(repr=False)


def claim_requeue(store: Store, letter_id: str, actor: str, reason: str, now: datetime) -> Claim:
    """Claim a dead letter, so that nobody else puts it back at the same time; then publish it.

    Args:
        store: the archive.
        letter_id: the letter's id, or an unambiguous beginning of it.
        actor: who does it.
        reason: why; it goes into the audit trail.
        now: this instant.

    Raises:
        ReasonRequired: the reason is blank.
        DeadLetterNotFound: no id begins so, or several do.
        InvalidTransition: the letter is not `dead` (the error says who put it back and when), or holds no task message,
            or has an id that guardrails did not make.
    """
    reason = _given(reason, "requeue")
    with store.begin() as conn:
        found = letters.get(conn, letter_id)
        whole, letter = found.summary.id, found.letter
        if not (letter.queue or letter.exchange or letter.routing_key):
            raise InvalidTransition(whole, "it holds no task message, so there is nothing to run: discard it")
        if not is_letter_id(whole):
            raise InvalidTransition(
                whole, "guardrails did not make its id, so no worker would report its end: discard it"
            )
        if not transition.claim(conn, whole, actor, reason, now):
            raise _refused(store, letters.get(conn, whole).summary, "requeued")
        generation = found.summary.generation + 1
        claim = Claim(whole, generation, actor, reason, letter, claims.add(conn, whole, generation))
        after = {"state": State.REQUEUED.value, "generation": claim.generation}
        audit.append(conn, _entry("requeue", found.summary, actor, reason, after, now))
    return claim


def requeue_published(store: Store, claim: Claim, now: datetime) -> None:
    """Note that the broker took the message of a claim; a success that is already reported stays."""
    with store.begin() as conn:
        transition.mark_published(conn, claim.id, claim.generation, now)
        claims.forget(conn, [claim.id])


def requeue_finished(store: Store, claim: Claim, now: datetime) -> None:
    """Note that the broker took the message of a claim that a guardian took over; the audit trail says `finished`."""
    state = {"state": State.REQUEUED.value, "generation": claim.generation}
    entry = audit.AuditEntry(now, claim.actor, "requeue", claim.id, claim.reason, state, state, "finished")
    with store.begin() as conn:
        transition.mark_published(conn, claim.id, claim.generation, now)
        claims.forget(conn, [claim.id])
        claims.replaced(conn, claim.id, claim.generation)
        audit.append(conn, entry)


def requeue_failed(store: Store, claim: Claim, error: str, now: datetime) -> bool:
    """Give a claim back: the letter is `dead` again with its former generation, and the audit trail says why.

    Returns:
        `False` if the work has moved on already. The broker did take the message, and nothing is changed.
    """
    with store.begin() as conn:
        before = letters.get(conn, claim.id).summary
        if not transition.mark_failed(conn, claim.id, claim.generation):
            return False
        claims.forget(conn, [claim.id])  # the digest stays: the broker may have taken the message all the same
        after = {"state": State.DEAD.value, "generation": claim.generation - 1, "error": error}
        audit.append(conn, _entry("requeue", before, claim.actor, claim.reason, after, now, outcome="failed"))
    return True


def discard(store: Store, letter_id: str, actor: str, reason: str, now: datetime) -> LetterSummary:
    """Decide that a dead letter will not be tried again; it can be restored until retention removes it.

    Raises:
        ReasonRequired: the reason is blank.
        DeadLetterNotFound: no id begins so, or several do.
        InvalidTransition: the letter is not `dead`.
    """
    reason = _given(reason, "discard")
    with store.begin() as conn:
        before = letters.get(conn, letter_id).summary
        if not transition.discard(conn, before.id, now):
            raise _refused(store, letters.get(conn, before.id).summary, "discarded")
        audit.append(conn, _entry("discard", before, actor, reason, {"state": State.DISCARDED.value}, now))
        return letters.get(conn, before.id).summary


def restore(store: Store, letter_id: str, actor: str, reason: str, now: datetime) -> LetterSummary:
    """Take back a discarded letter, or a requeued letter whose end nobody reports: it is `dead`, for a new decision.

    Requeued work may still be on its way, and a later report of its end is still believed. Ask before you do this.

    Raises:
        ReasonRequired: the reason is blank.
        DeadLetterNotFound: no id begins so, or several do.
        InvalidTransition: the letter is neither `discarded` nor `requeued`.
    """
    reason = _given(reason, "restore")
    with store.begin() as conn:
        before = letters.get(conn, letter_id).summary
        taken = before.state in (State.DISCARDED, State.REQUEUED)
        if not taken or not transition.restore(conn, before.id, before.state):
            raise _refused(store, letters.get(conn, before.id).summary, "restored")
        claims.forget(conn, [before.id])  # the digest stays: the message may be on its way
        audit.append(conn, _entry("restore", before, actor, reason, {"state": State.DEAD.value}, now))
        return letters.get(conn, before.id).summary


def unpublished_claims(store: Store, older_than: datetime) -> list[str]:
    """The ids of claims that nobody has tried to publish since `older_than`: their process or the store failed."""
    with store.read() as conn:
        return transition.unpublished(conn, older_than)


def take_over(store: Store, letter_id: str, older_than: datetime, now: datetime) -> Claim | None:
    """Take an abandoned claim over; `None` if another guardian did, or if it was published or resolved since."""
    with store.begin() as conn:
        if not transition.take_over(conn, letter_id, older_than, now):
            return None
        found = letters.get(conn, letter_id)
        row = found.summary
        token = claims.take(conn, row.id, row.generation)
        return Claim(row.id, row.generation, GUARDIAN, row.requeue_reason or "", found.letter, token)


def _given(reason: str, action: str) -> str:
    if not reason.strip():
        raise ReasonRequired(action)
    return reason.strip()


def _refused(store: Store, row: LetterSummary, wanted: str) -> InvalidTransition:
    state = row.state
    if state is State.REQUEUED:
        present = f"{row.requeued_by} has requeued it at {_shown(row.requeued_at)} ({row.requeue_reason})"
        back = celery_command(store.app, "guardrails dlq restore", row.id, tail='--reason "..."')
        present += f"; if its work will not end any more: {back}"
    elif state is State.RECOVERED:
        # the row names nobody if the claim was given back, though the broker had taken the message
        by = f", requeued by {row.requeued_by}" if row.requeued_by else ""
        present = f"it recovered at {_shown(row.resolved_at)}{by}"
    elif state is State.DISCARDED:
        first = "" if wanted == "discarded" else ": restore it first"
        present = f"it was discarded at {_shown(row.resolved_at)}{first}"
    else:
        present = "it is dead already"
    return InvalidTransition(row.id, f"cannot be {wanted}: {present}")


def _shown(at: datetime | None) -> str:
    return "?" if at is None else at.strftime("%Y-%m-%d %H:%M:%S UTC")


def _entry(
    action: str,
    before: LetterSummary,
    actor: str,
    reason: str,
    after: dict[str, Any],
    now: datetime,
    outcome: str = "done",
) -> audit.AuditEntry:
    state = {"state": before.state.value, "generation": before.generation}
    return audit.AuditEntry(now, actor, action, before.id, reason, state, after, outcome)
