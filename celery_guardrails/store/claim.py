"""Claims: who may report the end of work that was put back, and whether a report comes from there.

    requeue ──> add ──> token in the message ──> published: forget the token, keep its digest ──> report: `judge`

Owns the rows of `claim` and the reasons to refuse a report (`Doubt`). It must not know how a report changes a letter,
nor how a message is published.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from sqlalchemy import Connection, delete, select, update

from celery_guardrails.letters.claim import NO_TOKEN, digest_of, draw_token, fits
from celery_guardrails.letters.codec import NewerSchema, decode
from celery_guardrails.store.column import cut
from celery_guardrails.store.table import claim, dead_letter, death

__all__ = ["Claimed", "Doubt", "add", "claimed", "forget", "judge", "replaced", "take"]


class Doubt(str, Enum):
    """Why a report is not believed, as a clause."""

    UNKNOWN = "this archive has no such letter"
    NEVER_CLAIMED = "nobody has put the letter back so often"
    OTHER_TASK = "it is of another task"
    NO_TOKEN = "it brings no claim token"
    WRONG_TOKEN = "it brings another claim token"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Claimed:
    """A letter with the claims that decide about a report: `digests` by generation."""

    id: str
    task: str
    digests: Mapping[int, Sequence[str]]


def add(conn: Connection, letter_id: str, generation: int) -> str:
    """Draw the token of a claim, in the transaction of the claim, and keep it until its message is published."""
    token = draw_token()
    conn.execute(
        claim.insert().values(letter_id=letter_id, generation=generation, digest=digest_of(token), token=token)
    )
    return token


def take(conn: Connection, letter_id: str, generation: int) -> str:
    """The token of a claim that nobody has published; a new token if the claim is older than tokens."""
    mine = (claim.c.letter_id == letter_id, claim.c.generation == generation, claim.c.token.is_not(None))
    found: str | None = conn.execute(select(claim.c.token).where(*mine).limit(1)).scalar()
    return found or add(conn, letter_id, generation)


def forget(conn: Connection, letter_ids: Collection[str]) -> None:
    """Delete the tokens of these letters, but not the digests: their messages are published, or never will be."""
    if not letter_ids:
        return
    unneeded = (claim.c.letter_id.in_(sorted(letter_ids)), claim.c.token.is_not(None))
    conn.execute(update(claim).where(*unneeded).values(token=None))


def replaced(conn: Connection, letter_id: str, generation: int) -> None:
    """Remove a requeue's claim without a token, if it also has a claim with one: reports must bring the token then."""
    other = claim.alias()
    mine = (other.c.letter_id == letter_id, other.c.generation == generation, other.c.digest != NO_TOKEN)
    older = (claim.c.letter_id == letter_id, claim.c.generation == generation, claim.c.digest == NO_TOKEN)
    conn.execute(delete(claim).where(*older, select(other.c.digest).where(*mine).exists()))


def claimed(conn: Connection, letter_ids: Collection[str]) -> dict[str, Claimed]:
    """The given letters that the archive has, with their claims."""
    if not letter_ids:
        return {}
    wanted = sorted(letter_ids)
    tasks = conn.execute(select(dead_letter.c.id, dead_letter.c.task).where(dead_letter.c.id.in_(wanted)))
    digests: dict[str, dict[int, list[str]]] = {}
    columns = (claim.c.letter_id, claim.c.generation, claim.c.digest)
    for row in conn.execute(select(*columns).where(claim.c.letter_id.in_(wanted))):
        digests.setdefault(row.letter_id, {}).setdefault(row.generation, []).append(row.digest)
    return {row.id: Claimed(row.id, row.task, digests.get(row.id, {})) for row in tasks}


def judge(
    conn: Connection, found: Claimed | None, tasks: Collection[str], generation: int, token: str | None
) -> Doubt | None:
    """Why the report of an end is not believed; `None`: it is believed.

    Args:
        conn: a transaction.
        found: the letter that the report names; `None`: the archive has no such letter.
        tasks: the names of the report's task, as the archive writes them: the name in its message and the task's own,
            which differ if the task was renamed. One of them must be the letter's. Empty for a report of an older
            worker, which names no task.
        generation: which requeue the report is about.
        token: the claim token in the report.
    """
    if found is None:
        return Doubt.UNKNOWN
    digests = found.digests.get(generation, ())
    if not digests:
        return Doubt.NEVER_CLAIMED
    fitting = [fits(token, digest) for digest in digests]  # all digests, so that the time reveals nothing
    if not any(fitting):
        return Doubt.NO_TOKEN if token is None else Doubt.WRONG_TOKEN
    if not tasks or any(_agree(found.task, task) for task in tasks):
        return None
    published = _published_name(conn, found.id)
    return None if any(_agree(published, task) for task in tasks) else Doubt.OTHER_TASK


def _published_name(conn: Connection, letter_id: str) -> str:
    """The task's name in the message that a requeue of this letter publishes; the letter's may be another."""
    latest = select(death.c.payload).join(dead_letter, dead_letter.c.death_id == death.c.id)
    payload = conn.execute(latest.where(dead_letter.c.id == letter_id)).scalar()
    try:
        name = decode(payload).message.headers.get("task") if payload is not None else None
    except (ValueError, NewerSchema):
        name = None
    return cut(name) if isinstance(name, str) else ""


def _agree(one: str, other: str) -> bool:
    """Whether two names can be of one task; a `map` or an unreadable message names no task and agrees with all."""
    return one == other or any(name.startswith(("celery.", "(")) for name in (one, other))
