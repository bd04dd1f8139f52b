"""Finding dead letters for people: what the commands and the console read.

Each function is one reading transaction on the archive. Owns no SQL and no state.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from celery_guardrails.errors import QueryError, nearest
from celery_guardrails.store import letter as letters
from celery_guardrails.store.engine import Store
from celery_guardrails.store.filter import Query
from celery_guardrails.store.record import ArchivedLetter, Death, Group, Keyset, LetterSummary, Page, Stats, Unreported

__all__ = ["count", "deaths", "each", "get", "groups", "require_kept", "search", "stats", "unreported"]

_ALL = Query()


def get(store: Store, letter_id: str) -> ArchivedLetter:
    """One whole dead letter, by its id or an unambiguous beginning of its id.

    Raises:
        DeadLetterNotFound: no id begins so, or several do.
        StoreError: the archive cannot be read.
    """
    with store.read() as conn:
        return letters.get(conn, letter_id)


def deaths(store: Store, letter_id: str) -> list[Death]:
    """Every death of this work, the oldest generation first; `letter_id` must be the whole id."""
    with store.read() as conn:
        return letters.deaths(conn, letter_id)


def search(
    store: Store, query: Query = _ALL, limit: int = 100, after: Keyset | None = None, *, newest_first: bool = True
) -> Page:
    """A page of dead letters, by the time of death; `after` is the `next` of the page before."""
    with store.read() as conn:
        return letters.search(conn, query, limit, after, newest_first=newest_first)


def each(store: Store, query: Query = _ALL, *, batch: int = 500) -> Iterator[LetterSummary]:
    """Every dead letter that a query means, the longest dead first, in constant memory.

    No transaction stays open between two pages: a letter that dies again or is archived meanwhile may come at the end.
    """
    after: Keyset | None = None
    while True:
        page = search(store, query, batch, after, newest_first=False)
        yield from page.letters
        if page.next is None:
            return
        after = page.next


def count(store: Store, query: Query = _ALL) -> int:
    """How many dead letters a query means."""
    with store.read() as conn:
        return letters.count(conn, query)


def require_kept(store: Store, query: Query) -> None:
    """Check that the arguments that a query names are kept.

    Raises:
        QueryError: the query finds letters without its terms on arguments, but none of these letters keeps an argument
            of such a name in clear.
    """
    names = query.argument_names()
    if not names:
        return
    with store.read() as conn:
        meant = query.without_arguments()
        kept = letters.kept_names(conn, meant)
        missing = next((name for name in names if name not in kept), None)
        if missing is None or not letters.count(conn, meant):
            return
    others = f"they keep {', '.join(kept)}" if kept else "they keep no argument"
    raise QueryError(
        f"arg.{missing}",
        f"none of the dead letters meant keeps {missing}: {others}; name an argument in the policy's correlate or "
        "affected_by to keep it, from the next dead letter on",
        nearest(f"arg.{missing}", [f"arg.{name}" for name in kept]),
    )


def groups(store: Store, query: Query = _ALL, by: str = "fingerprint", limit: int = 100) -> list[Group]:
    """Dead letters grouped by what they have in common, the largest group first.

    Raises:
        QueryError: `by` is not one of fingerprint (task and fingerprint), task, error, queue, worker, version.
    """
    if by not in letters.GROUPINGS:
        choices = list(letters.GROUPINGS)
        raise QueryError(by, f"group by one of {', '.join(choices)}", nearest(by, choices))
    with store.read() as conn:
        return letters.groups(conn, query, by, limit)


def unreported(store: Store, before: datetime) -> list[Unreported]:
    """Work that was put back before this instant and whose end is not known, by task, the longest first."""
    with store.read() as conn:
        return letters.unreported(conn, before)


def stats(store: Store, query: Query = _ALL) -> Stats:
    """Counts by state, task and reason, and since when the oldest dead letter waits."""
    with store.read() as conn:
        return letters.stats(conn, query)
