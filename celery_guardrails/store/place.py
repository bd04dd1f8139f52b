"""Which letter a death belongs to: a new letter, or the letter that was put back, if the death proves it.

Owns which ids in a death are believed. A death that is not believed becomes a letter of its own, under an id that is
computed from its bytes. It must not know what a death changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, select

from celery_guardrails.letters.codec import NewerSchema, decode
from celery_guardrails.letters.header import read_header
from celery_guardrails.letters.identity import is_letter_id, own_id
from celery_guardrails.letters.record import Letter
from celery_guardrails.store import audit
from celery_guardrails.store import claim as claims
from celery_guardrails.store.column import cut, key_of
from celery_guardrails.store.record import Archivable, SetAside
from celery_guardrails.store.table import death

__all__ = ["Placed", "note_held", "note_set_aside", "place"]


@dataclass(frozen=True, slots=True)
class Placed:
    """A death as it is archived: with ids that are believed.

    `set_aside` says that the death falsely named another letter. `holder` is another letter that already has a death
    under this death's id: this death then gets a new id.
    """

    item: Archivable
    set_aside: SetAside | None = None
    holder: str | None = None


def place(conn: Connection, found: Sequence[Archivable]) -> list[Placed]:
    """Each death with the ids under which the archive keeps it, in their order.

    Args:
        conn: a transaction.
        found: deaths as they came.
    """
    named = {key_of(item.letter.dead_letter_id) for item in found if item.letter.dead_letter_id is not None}
    known = claims.claimed(conn, named)
    return _apart(conn, [_placed(conn, item, known) for item in found])


def note_held(conn: Connection, found: Sequence[Placed], now: datetime) -> None:
    """Write an audit entry for each letter that has a death under an id that another letter's death brought, too."""
    reason = "it has the id of a death of letter {}, which is kept under another one"
    held = [(one.holder, reason.format(key_of(one.item.letter.origin_id))) for one in found if one.holder]
    audit.append_refused(
        conn, [_entry("die", holder, words, "the id of another's death", now) for holder, words in held]
    )


def note_set_aside(conn: Connection, found: Sequence[SetAside], now: datetime) -> None:
    """Write an audit entry for the letter that a report named, and one for the new letter that the report became."""
    entries = []
    for one in found:
        if one.kept_as is None:
            entries.append(_entry("recover", one.claimed_id, f"a recovery was reported: {one.doubt}", one.doubt, now))
            continue
        kept = f"{one.doubt}: kept as a letter of its own, {one.kept_as}"
        claims_to_be = f"it claims to be a further death of {one.claimed_id}: {one.doubt}"
        entries.append(_entry("die", one.claimed_id, kept, one.doubt, now))
        entries.append(_entry("die", one.kept_as, claims_to_be, one.doubt, now))
    audit.append_refused(conn, entries)


def _apart(conn: Connection, found: list[Placed]) -> list[Placed]:
    """The same deaths, but no two works share a death's id: somebody who knows how ids are made could guess one."""
    ids = sorted({key_of(one.item.letter.id) for one in found})
    rows = conn.execute(select(death.c.id, death.c.letter_id, death.c.payload).where(death.c.id.in_(ids))).all()
    holders: dict[str, str] = {row.id: row.letter_id for row in rows}
    bodies = {row.id: _body(row.payload) for row in rows}
    apart = []
    for one in found:
        letter = one.item.letter
        key = key_of(letter.id)
        holder = holders.setdefault(key, key_of(letter.origin_id))
        body = bodies.setdefault(key, letter.message.body)
        # a first death brings no claim token: if it is the same death again, it has the same message
        other_work = letter.dead_letter_id is None and body is not None and body != letter.message.body
        if other_work or holder != key_of(letter.origin_id):
            changed = letter.model_copy(update={"id": own_id(one.item.payload, "apart")})
            one = replace(one, item=replace(one.item, letter=changed), holder=holder)
        apart.append(one)
    return apart


def _body(payload: bytes) -> bytes | None:
    """The message's body of a death in the archive; `None` if it cannot be read."""
    try:
        return decode(payload).message.body
    except (ValueError, NewerSchema):
        return None


def _placed(conn: Connection, item: Archivable, known: dict[str, claims.Claimed]) -> Placed:
    letter = item.letter
    if letter.dead_letter_id is None:
        if is_letter_id(letter.id):
            return Placed(item) if not letter.generation else Placed(_as(item, letter.id))
        return Placed(_as(item, own_id(item.payload)))
    claimed_id = key_of(letter.dead_letter_id)
    doubt = claims.judge(conn, known.get(claimed_id), _names(letter), letter.generation, _token_of(letter))
    if doubt is None:
        if is_letter_id(letter.id):
            return Placed(item)
        changed = letter.model_copy(update={"id": own_id(item.payload)})
        return Placed(replace(item, letter=changed))
    own = own_id(item.payload, "set aside")
    return Placed(_as(item, own), SetAside(claimed_id, str(doubt), own))


def _as(item: Archivable, letter_id: str) -> Archivable:
    """The death as the first death of a letter with this id."""
    first = {"id": letter_id, "dead_letter_id": None, "generation": 0, "claim_token": None}
    return Archivable.of(item.letter.model_copy(update=first))


def _names(letter: Letter) -> set[str]:
    """The names of the letter's task: the task's own name, and the name in the message, by which it was sent."""
    published = letter.message.headers.get("task")
    return {cut(name) for name in (letter.task, published) if isinstance(name, str)}


def _token_of(letter: Letter) -> str | None:
    """The claim token of a death; older workers leave it in the message's header."""
    return letter.claim_token or read_header(letter.message.headers).claim_token


def _entry(action: str, target: str, reason: str, doubt: str, now: datetime) -> audit.AuditEntry:
    return audit.AuditEntry(now, audit.GUARDIAN, action, target, reason, {"refused": doubt}, outcome=audit.REFUSED)
