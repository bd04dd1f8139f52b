"""Claims: who may report the end of work that was put back, and whether a report is such a one.

    requeue ──> add ──> token in the message ──> published: forget the token, keep its digest ──> report: `judge`

Owns the rows of `claim` and what is wrong with a report (`Doubt`). It must not know how a report changes a letter, nor
how a message is published.
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
    """Why a report is not believed, in words: a clause about it."""

    UNKNOWN = "this archive has no such letter"
    NEVER_CLAIMED = "nobody has put the letter back so often"
    OTHER_TASK = "it is of another task"
    NO_TOKEN = "it brings no claim token"
    WRONG_TOKEN = "it brings another claim token"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Claimed:
    """A letter with its claims, as far as a report is judged by them: `digests` by generation."""

    id: str
    task: str
    digests: Mapping[int, Sequence[str]]


def add(conn: Connection, letter_id: str, generation: int) -> str:
    """Draw the token of a claim, in the transaction that makes it, and keep it until it is published."""
    token = draw_token()
    conn.execute(
        claim.insert().values(letter_id=letter_id, generation=generation, digest=digest_of(token), token=token)
    )
    return token


def take(conn: Connection, letter_id: str, generation: int) -> str:
    """The token of a claim that nobody has published; a new one where it was claimed before there were tokens."""
    mine = (claim.c.letter_id == letter_id, claim.c.generation == generation, claim.c.token.is_not(None))
    found: str | None = conn.execute(select(claim.c.token).where(*mine).limit(1)).scalar()
    return found or add(conn, letter_id, generation)


def forget(conn: Connection, letter_ids: Collection[str]) -> None:
    """Keep no token of these letters any more: their messages are published, or never will be."""
    if not letter_ids:
        return
    unneeded = (claim.c.letter_id.in_(sorted(letter_ids)), claim.c.token.is_not(None))
    conn.execute(update(claim).where(*unneeded).values(token=None))


def replaced(conn: Connection, letter_id: str, generation: int) -> None:
    """Believe no report without a token of a requeue that was published with one: take the older claim away."""
    other = claim.alias()
    mine = (other.c.letter_id == letter_id, other.c.generation == generation, other.c.digest != NO_TOKEN)
    older = (claim.c.letter_id == letter_id, claim.c.generation == generation, claim.c.digest == NO_TOKEN)
    conn.execute(delete(claim).where(*older, select(other.c.digest).where(*mine).exists()))


def claimed(conn: Connection, letter_ids: Collection[str]) -> dict[str, Claimed]:
    """Those of these letters that the archive has, with their claims."""
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
    """What is wrong with the report of an end; `None`: it is believed.

    Args:
        conn: a transaction.
        found: the letter that it names; `None`: there is none.
        tasks: the names of its task, as the archive writes them: that in its message and the task's own, which differ
            where a task was renamed; one of them must be the letter's. Empty where it does not say, as older workers
            do not.
        generation: which requeue it is of.
        token: the claim token that it brings.
    """
    if found is None:
        return Doubt.UNKNOWN
    digests = found.digests.get(generation, ())
    if not digests:
        return Doubt.NEVER_CLAIMED
    fitting = [fits(token, digest) for digest in digests]  # all of them, so that the time tells nothing
    if not any(fitting):
        return Doubt.NO_TOKEN if token is None else Doubt.WRONG_TOKEN
    if not tasks or any(_agree(found.task, task) for task in tasks):
        return None
    published = _published_name(conn, found.id)
    return None if any(_agree(published, task) for task in tasks) else Doubt.OTHER_TASK


def _published_name(conn: Connection, letter_id: str) -> str:
    """The name in the message that a requeue of this letter publishes; that of its task may be another."""
    latest = select(death.c.payload).join(dead_letter, dead_letter.c.death_id == death.c.id)
    payload = conn.execute(latest.where(dead_letter.c.id == letter_id)).scalar()
    try:
        name = decode(payload).message.headers.get("task") if payload is not None else None
    except (ValueError, NewerSchema):
        name = None
    return cut(name) if isinstance(name, str) else ""


def _agree(one: str, other: str) -> bool:
    """Whether two names can be the same task's: a `map`, or a message that nobody could read, names none of its own."""
    return one == other or any(name.startswith(("celery.", "(")) for name in (one, other))
