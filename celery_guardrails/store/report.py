"""Reports that work which was put back has succeeded: believed where they bring its claim, else set aside.

Owns what a report comes to and its audit entry. It must not know how a report travels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from celery_guardrails.letters.recovery import Recovery
from celery_guardrails.store import audit
from celery_guardrails.store import claim as claims
from celery_guardrails.store.column import cut, key_of
from celery_guardrails.store.place import note_set_aside
from celery_guardrails.store.record import SetAside, State
from celery_guardrails.store.table import dead_letter
from celery_guardrails.store.transition import confirm_recovered

__all__ = ["Reported", "recover"]


@dataclass(frozen=True, slots=True)
class Reported:
    """What a report came to: the letter became `recovered` by it, or it is set aside, or it says what was known."""

    recovered: bool = False
    set_aside: SetAside | None = None


def recover(conn: Connection, reports: Sequence[Recovery], now: datetime) -> list[Reported]:
    """Note what reports of recoveries say, where they are believed.

    Args:
        conn: a transaction of `Store.begin`.
        reports: in any order; the same one may come twice.
        now: this instant.

    Returns:
        One result for each of `reports`, in their order. A report of a letter that the archive does not have, or has
        pruned, changes nothing and is not told of.
    """
    keys = {key_of(report.dead_letter_id) for report in reports}
    known = claims.claimed(conn, keys)
    results: dict[int, Reported] = {}
    # every guardian locks in the order of ids: two of them never wait for each other
    for number in sorted(range(len(reports)), key=lambda number: key_of(reports[number].dead_letter_id)):
        results[number] = _one(conn, reports[number], known, now)
    note_set_aside(conn, [found.set_aside for found in results.values() if found.set_aside], now)
    done = {key_of(reports[number].dead_letter_id) for number, found in results.items() if found.recovered}
    claims.forget(conn, done)
    return [results[number] for number in range(len(reports))]


def _one(conn: Connection, report: Recovery, known: dict[str, claims.Claimed], now: datetime) -> Reported:
    key = key_of(report.dead_letter_id)
    found = known.get(key)
    if found is None:
        return Reported()
    task = None if report.task is None else cut(report.task)
    doubt = claims.judge(found, task, report.generation, report.claim_token)
    if doubt is not None:
        return Reported(set_aside=SetAside(key, str(doubt)))
    columns = (dead_letter.c.state, dead_letter.c.generation, dead_letter.c.requeue_reason)
    before = conn.execute(select(*columns).where(dead_letter.c.id == key).with_for_update()).one()
    if not confirm_recovered(conn, key, report.generation, report.at):
        return Reported()
    was, stands = (
        {"state": state, "generation": generation}
        for state, generation in ((before.state, before.generation), (State.RECOVERED.value, report.generation))
    )
    reason = before.requeue_reason or ""
    audit.append(conn, audit.AuditEntry(now, audit.GUARDIAN, "recover", key, reason, was, stands))
    return Reported(recovered=True)
