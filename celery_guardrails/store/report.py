"""Reports that work which was put back has succeeded: believed if they bring the claim's token, else set aside.

Owns the result of a report and its audit entry. It must not know how a report travels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

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
    """The result of a report: it made the letter `recovered`, or it was set aside, or it changed nothing."""

    recovered: bool = False
    set_aside: SetAside | None = None


def recover(conn: Connection, reports: Sequence[Recovery], now: datetime) -> list[Reported]:
    """Mark letters as recovered, by the reports that are believed.

    Args:
        conn: a transaction of `Store.begin`.
        reports: in any order; the same report may come twice.
        now: this instant.

    Returns:
        One result for each of `reports`, in their order. A report of a letter that the archive does not have, or has
        pruned, changes nothing and leaves no audit entry.
    """
    keys = [key_of(report.dead_letter_id) for report in reports]
    known = claims.claimed(conn, set(keys))
    results = [_judged(conn, report, key, known) for report, key in zip(reports, keys, strict=True)]
    believed = [number for number, found in enumerate(results) if found is None]
    standing = _standing(conn, {keys[number] for number in believed})
    trail = []
    for number in sorted(believed, key=lambda number: keys[number]):
        entry = _recovered(conn, reports[number], keys[number], standing, now)
        results[number] = Reported(recovered=entry is not None)
        trail += [entry] if entry is not None else []
    audit.append_all(conn, trail)
    claims.forget(conn, {entry.target for entry in trail})
    found = [result or Reported() for result in results]
    note_set_aside(conn, [one.set_aside for one in found if one.set_aside], now)
    return found


def _judged(conn: Connection, report: Recovery, key: str, known: dict[str, claims.Claimed]) -> Reported | None:
    """The result of a report that is not believed; `None`: the report is believed."""
    found = known.get(key)
    if found is None:
        return Reported()
    tasks = set() if report.task is None else {cut(report.task)}
    doubt = claims.judge(conn, found, tasks, report.generation, report.claim_token)
    return None if doubt is None else Reported(set_aside=SetAside(key, str(doubt)))


def _standing(conn: Connection, keys: Collection[str]) -> dict[str, Any]:
    """The state of these letters, locked in the order of ids, so that two guardians never wait for each other."""
    if not keys:
        return {}
    columns = (dead_letter.c.id, dead_letter.c.state, dead_letter.c.generation, dead_letter.c.requeue_reason)
    wanted = select(*columns).where(dead_letter.c.id.in_(sorted(keys))).order_by(dead_letter.c.id)
    return {row.id: row for row in conn.execute(wanted.with_for_update())}


def _recovered(
    conn: Connection,
    report: Recovery,
    key: str,
    standing: dict[str, Any],
    now: datetime,
) -> audit.AuditEntry | None:
    """Change the letter, and give the audit entry; `None` if the report changes nothing."""
    before = standing.get(key)
    if before is None or not confirm_recovered(conn, key, report.generation, report.at):
        return None
    was = {"state": before.state, "generation": before.generation}
    stands = {"state": State.RECOVERED.value, "generation": max(before.generation, report.generation)}
    return audit.AuditEntry(now, audit.GUARDIAN, "recover", key, before.requeue_reason or "", was, stands)
