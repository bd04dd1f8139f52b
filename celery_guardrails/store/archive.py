"""Putting a batch of deaths into the archive, so that a repetition changes nothing.

Owns what a death means for the row of its work: a new death, the same death again, a further death after a requeue, or
a death that comes too late. It must not know where the letters come from.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from celery_guardrails.letters.record import Letter, in_utc, values_of
from celery_guardrails.store import audit
from celery_guardrails.store import claim as claims
from celery_guardrails.store.column import LARGEST, NAME, cut, cut_or_none, key_of, plausible, shortened
from celery_guardrails.store.place import Placed, note_held, note_set_aside, place
from celery_guardrails.store.record import Archivable, Archived, Outcome, State
from celery_guardrails.store.table import dead_letter, death, letter_argument

__all__ = ["archive"]

_MESSAGE = 500
_MOST_VALUES = 100


def archive(conn: Connection, letters: Sequence[Archivable], now: datetime) -> list[Archived]:
    """Archive a batch, in a few statements whatever its size.

    Args:
        conn: a transaction of `Store.begin`; acknowledge the messages only after its commit.
        letters: deaths in any order, of any works; the same death may come twice.
        now: when they are archived.

    Returns:
        One result for each of `letters`, in their order.
    """
    if not letters:
        return []
    placed = place(conn, letters)
    first: dict[str, Archivable] = {}
    for one in placed:
        first.setdefault(key_of(one.item.letter.id), one.item)
    latest: dict[str, Letter] = {}
    for item in sorted(first.values(), key=lambda item: item.letter.generation):
        latest[key_of(item.letter.origin_id)] = item.letter
    # every guardian inserts, and then locks, in the order of ids: two guardians never wait for each other
    made = _insert(conn, dead_letter, [_row(key, latest[key], now) for key in sorted(latest)])
    _insert_arguments(conn, {key: latest[key] for key in sorted(made)})
    standing = _standing(conn, latest.keys() - made)
    fresh = _insert(conn, death, [_death(key, first[key], now) for key in sorted(first)])
    outcomes = _settle(conn, [first[key].letter for key in fresh], made, standing, now)
    results = [_result(one, outcomes) for one in placed]
    note_held(conn, [one for one, result in zip(placed, results, strict=True) if _is_news(result)], now)
    note_set_aside(conn, [one.set_aside for one in results if one.set_aside and one.outcome is Outcome.NEW], now)
    return results


def _is_news(result: Archived) -> bool:
    return result.outcome is not Outcome.DUPLICATE


def _result(one: Placed, outcomes: dict[str, Outcome]) -> Archived:
    letter = one.item.letter
    key = key_of(letter.id)
    # of two equal deaths in a batch, the second finds no outcome left: it is the duplicate
    outcome = outcomes.pop(key, Outcome.DUPLICATE)
    return Archived(key_of(letter.origin_id), key, outcome, letter, one.set_aside)


def _insert(conn: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> set[str]:
    insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).on_conflict_do_nothing(index_elements=[table.c.id]).returning(table.c.id)
    return set(conn.execute(statement, list(rows)).scalars())


def _insert_arguments(conn: Connection, letters: dict[str, Letter]) -> None:
    rows = []
    for key, letter in letters.items():
        values = itertools.islice({**letter.affected, **letter.correlation}.items(), _MOST_VALUES)
        named = {cut(name, NAME): cut(", ".join(values_of(value))) for name, value in values}
        rows += [{"letter_id": key, "name": name, "value": value} for name, value in named.items()]
    if rows:
        conn.execute(letter_argument.insert(), rows)


def _standing(conn: Connection, keys: Collection[str]) -> dict[str, tuple[str, int, bool]]:
    """State and generation of works that were archived before, and whether this generation has died.

    Their rows are locked until the transaction ends.
    """
    if not keys:
        return {}
    same = (death.c.letter_id == dead_letter.c.id, death.c.generation == dead_letter.c.generation)
    died = select(death.c.id).where(*same).exists().label("died")
    columns = (dead_letter.c.id, dead_letter.c.state, dead_letter.c.generation, died)
    query = select(*columns).where(dead_letter.c.id.in_(sorted(keys))).order_by(dead_letter.c.id)
    found = conn.execute(query.with_for_update(of=dead_letter))
    return {row.id: (row.state, row.generation, row.died) for row in found}


def _settle(
    conn: Connection,
    fresh: Iterable[Letter],
    made: Collection[str],
    standing: dict[str, tuple[str, int, bool]],
    now: datetime,
) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    trail: list[audit.AuditEntry] = []
    changes: dict[str, dict[str, Any]] = {}
    state = dict(standing)
    unseen = set(made)
    for letter in sorted(fresh, key=lambda letter: (letter.generation, letter.id)):
        key, own, generation = key_of(letter.origin_id), key_of(letter.id), _small(letter.generation)
        if key in made:
            outcomes[own] = Outcome.NEW if key in unseen else Outcome.REGRESSED
            unseen.discard(key)
            continue
        at_state, at_generation, died = state[key]
        # somebody restored the letter while its work was on its way: this work may die, too
        restored = at_state == State.DEAD and not died
        open_again = generation == at_generation and (at_state in (State.REQUEUED, State.RECOVERED) or restored)
        if generation < at_generation or (generation == at_generation and not open_again):
            outcomes[own] = Outcome.STALE
            continue
        # a discard is a decision on the work: a copy that ran all the same does not undo it
        kept = at_state == State.DISCARDED
        outcomes[own] = Outcome.STALE if kept else Outcome.REGRESSED
        state[key] = (State.DISCARDED.value if kept else State.DEAD.value, generation, True)
        changes[key] = {"id": key, "state": state[key][0], "regressed": True, **_latest(letter, now)}
        trail.append(_entry(key, letter, (at_state, at_generation), state[key][:2], now))
    ordered = [changes[key] for key in sorted(changes)]
    _apply(conn, [{**change, "resolved_at": None} for change in ordered if change["state"] == State.DEAD])
    _apply(conn, [change for change in ordered if change["state"] == State.DISCARDED])
    claims.forget(conn, changes)
    audit.append_all(conn, trail)
    return outcomes


def _entry(
    key: str, letter: Letter, before: tuple[str, int], after: tuple[str, int], now: datetime
) -> audit.AuditEntry:
    was, stands = ({"state": state, "generation": generation} for state, generation in (before, after))
    return audit.AuditEntry(now, audit.GUARDIAN, "die", key, letter.reason.value, was, stands)


def _apply(conn: Connection, changes: Sequence[dict[str, Any]]) -> None:
    if not changes:
        return
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in changes[0] if name != "id"}
    statement = update(dead_letter).where(dead_letter.c.id == bindparam("new_id")).values(values)
    conn.execute(statement, [{f"new_{name}": value for name, value in row.items()} for row in changes])


def _latest(letter: Letter, now: datetime) -> dict[str, Any]:
    """The columns about the latest death."""
    return {
        "reason": letter.reason.value,
        "category": letter.failure.category.value,
        "error": cut(letter.failure.type),
        "message": shortened(letter.failure.message or letter.explanation, _MESSAGE),
        "fingerprint": cut(letter.failure.fingerprint),
        "generation": _small(letter.generation),
        "worker": cut(letter.worker),
        "queue": cut(letter.queue),
        "owner": cut_or_none(letter.owner),
        "severity": cut(letter.severity),
        "may_have_run": letter.may_have_run,
        "version": cut_or_none(letter.version),
        "died_at": plausible(in_utc(letter.died_at), now),
        "attempts": _small(letter.attempts[-1].number) if letter.attempts else 0,
        "death_id": key_of(letter.id),
    }


def _row(key: str, letter: Letter, now: datetime) -> dict[str, Any]:
    return {
        "id": key,
        "task": cut(letter.task),
        "task_id": cut(letter.task_id),
        "root_id": cut_or_none(letter.root_id),
        "parent_id": cut_or_none(letter.parent_id),
        "group_id": cut_or_none(letter.group_id),
        "state": State.DEAD.value,
        "environment": cut(letter.environment),
        "published_at": in_utc(letter.published_at) if letter.published_at else None,
        "first_failed_at": plausible(in_utc(letter.first_failed_at), now),
        "archived_at": now,
        # the first letter is in another archive, or pruned; the work was put back all the same
        "regressed": letter.generation > 0,
        **_latest(letter, now),
    }


def _death(key: str, item: Archivable, now: datetime) -> dict[str, Any]:
    return {
        "id": key,
        "letter_id": key_of(item.letter.origin_id),
        "generation": _small(item.letter.generation),
        "died_at": plausible(in_utc(item.letter.died_at), now),
        "reason": item.letter.reason.value,
        "payload": item.payload,
    }


def _small(number: int) -> int:
    return max(0, min(number, LARGEST))
