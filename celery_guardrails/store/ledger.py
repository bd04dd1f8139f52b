"""The ledger in SQLite and PostgreSQL: the authority on what is done.

Each step is one statement that is committed by itself. A run's begin and end are one each; only work that may not begin
costs a second one, which reads why. On PostgreSQL the database's clock counts, on SQLite that of its one machine.
`finishing` is the last step as a statement for the application's own transaction: the row then says that the work is
done exactly if the transaction is committed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Update,
    and_,
    delete,
    func,
    literal,
    literal_column,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from celery_guardrails import clock
from celery_guardrails.errors import LedgerError, StoreError
from celery_guardrails.idempotency.ledger import (
    REMEMBERED,
    Answer,
    Begun,
    Entry,
    Kept,
    Key,
    Line,
    Result,
    Run,
    State,
    refusal,
)
from celery_guardrails.store.column import cut
from celery_guardrails.store.engine import WRITE, open_store
from celery_guardrails.store.ledger_table import ledger
from celery_guardrails.store.refusal import reason_of

__all__ = ["SqlLedger", "finish_in", "finishing"]

_T = TypeVar("_T")
_ROUNDS = 5
_DIALECTS = {"postgresql": postgresql.dialect, "sqlite": sqlite.dialect}
_PG_NOW = "(extract(epoch from clock_timestamp()) * 1000000)::bigint"


class SqlLedger:
    """A ledger in a database.

    Args:
        url: as the setting `store.url`.
    """

    def __init__(self, url: str) -> None:
        try:
            self._store = open_store(url, create=False, verify=False, ping=False)
        except StoreError as exc:
            raise LedgerError(exc.url, exc.reason) from exc
        self._pid = os.getpid()
        engine = self._store.engine
        # on SQLite a transaction costs no round trip, and takes the lock for writing first
        on_postgresql = engine.dialect.name == "postgresql"
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT") if on_postgresql else engine

    @property
    def name(self) -> str:
        """As the protocol says."""
        return self._store.url

    def begin(self, key: Key, run: Run, arguments: str, lease: timedelta) -> Answer:
        """As the protocol says."""

        def step(conn: Connection) -> Answer:
            for _ in range(_ROUNDS):
                fence = conn.execute(_beginning(conn, key, run, arguments, lease)).scalar()
                if fence is not None:
                    return Begun(fence)
                line = _read(conn, key)
                answer = None if line is None else refusal(line, run, arguments)
                if answer is not None:
                    return answer
            raise LedgerError(self.name, "the same key is begun and freed again and again")

        return self._do(step)

    def renew(self, owners: Collection[str], lease: timedelta) -> set[str]:
        """As the protocol says. A row that the run itself is finishing in a transaction of its own is left out."""
        if not owners:
            return set()

        def step(conn: Connection) -> set[str]:
            # whoever waited for such a row would hold up the leases of all others
            free = select(ledger.c.digest).where(*_of(owners)).with_for_update(skip_locked=True)
            theirs = update(ledger).where(*_of(owners))
            if conn.dialect.name == "postgresql":
                theirs = theirs.where(ledger.c.digest.in_(free.scalar_subquery()))
            return set(conn.execute(theirs.values(until=_after(conn, lease)).returning(ledger.c.owner)).scalars())

        return self._do(step)

    def hold(self, owner: str, seconds: float) -> bool:
        """As the protocol says."""
        return self._changes(lambda conn: update(ledger).where(*_of([owner])).values(until=_after(conn, seconds)))

    def finish(self, key: Key, owner: str, result: Result, ttl: timedelta) -> bool:
        """As the protocol says."""
        return self._changes(lambda conn: finishing(conn.dialect.name, key, owner, result, ttl))

    def free(self, owner: str) -> bool:
        """As the protocol says."""
        return self._changes(
            lambda conn: update(ledger).where(*_of([owner])).values(state=State.FREE.value, until=_now(conn))
        )

    def entry(self, key: Key) -> Entry | None:
        """As the protocol says."""
        found = select(ledger).where(ledger.c.digest == key.digest)
        row = self._do(lambda conn: conn.execute(found).first(), write=False)
        if row is None:
            return None
        return Entry(
            row.scope, row.text, State(row.state), row.fence, row.task, row.task_id, row.began_at, row.until,
            row.done_at, Result(Kept(row.kept), row.body, row.content_type),
        )  # fmt: skip

    def find(self, environment: str, text: str, scope: str | None = None, most: int = 20) -> list[Key]:
        """As the protocol says. No index helps: it reads the whole table."""
        named = (ledger.c.environment, ledger.c.scope, ledger.c.text, ledger.c.digest)
        wanted = [ledger.c.environment == environment, ledger.c.text == cut(text)]
        if scope is not None:
            wanted.append(ledger.c.scope == cut(scope))
        query = select(*named).where(*wanted).order_by(ledger.c.scope, ledger.c.digest).limit(most)
        return [Key(*row) for row in self._do(lambda conn: conn.execute(query).all())]

    def forget(self, key: Key, fence: int | None = None) -> bool:
        """As the protocol says."""
        wanted = [ledger.c.digest == key.digest] + ([] if fence is None else [ledger.c.fence == fence])
        return self._changes(lambda conn: delete(ledger).where(*wanted))

    def prune(self, most: int = 1000) -> int:
        """As the protocol says."""

        def step(conn: Connection) -> int:
            now = _now(conn)
            until = _number(ledger.c.until)
            ended = (until <= now, or_(ledger.c.state == State.DONE.value, until <= now - _microseconds(REMEMBERED)))
            some = list(conn.execute(select(ledger.c.digest).where(*ended).order_by(until).limit(most)).scalars())
            # once more `ended`: a run may have begun one of them since
            return conn.execute(delete(ledger).where(ledger.c.digest.in_(some), *ended)).rowcount if some else 0

        return self._do(step)

    def now(self) -> datetime:
        """As the protocol says."""
        return clock.from_epoch(self._do(lambda conn: conn.execute(select(_now(conn))).scalar_one()) / 1_000_000)

    def close(self) -> None:
        """As the protocol says."""
        self._store.close()

    def _changes(self, statement: Callable[[Connection], Any]) -> bool:
        return self._do(lambda conn: conn.execute(statement(conn)).rowcount > 0)

    def _do(self, step: Callable[[Connection], _T], *, write: bool = True) -> _T:
        """Do a step; once more if the connection had died of age. Each step may be done twice."""
        try:
            try:
                return self._once(step, write)
            except DBAPIError as exc:
                if not exc.connection_invalidated:
                    raise
                return self._once(step, write)
        except SQLAlchemyError as exc:
            raise LedgerError(self.name, reason_of(exc)) from exc

    def _once(self, step: Callable[[Connection], _T], write: bool) -> _T:
        if self._pid != os.getpid():
            # a fork inherits the connections of its parent: leave them alone
            self._engine.dispose(close=False)
            self._pid = os.getpid()
        with self._engine.connect().execution_options(**{WRITE: write}) as conn, conn.begin():
            return step(conn)


def finishing(dialect: str, key: Key, owner: str, result: Result, ttl: timedelta) -> Update:
    """The statement that notes that the work is done: it changes no row if the run has lost its lease.

    Args:
        dialect: `postgresql` or `sqlite`.
        key: names the work.
        owner: the run.
        result: what it returned, as far as it is known.
        ttl: how long it is remembered.
    """
    now = _now_of(dialect)
    mine = (ledger.c.digest == key.digest, ledger.c.owner == owner, ledger.c.state != State.FREE.value)
    return (
        update(ledger)
        .where(*mine)
        .values(
            state=State.DONE.value,
            until=now + _microseconds(ttl),
            done_at=func.coalesce(ledger.c.done_at, now),
            kept=result.kept.value,
            body=result.body,
            content_type=result.content_type,
        )
    )


def finish_in(transaction: Any, key: Key, owner: str, result: Result, ttl: timedelta) -> bool:
    """Note that work is done, in a transaction of the application.

    Args:
        transaction: a SQLAlchemy `Session` or `Connection`; an alias of Django's `DATABASES`, or Django's connection.
        key, owner, result, ttl: as for `Ledger.finish`.

    Returns:
        `False`: the run has lost its lease.

    Raises:
        LedgerError: it is none of these, or Django's connection is in no `atomic` block.
    """
    if isinstance(transaction, str):
        transaction = import_module("django.db").connections[transaction]
    if hasattr(transaction, "in_atomic_block"):
        return _in_django(transaction, key, owner, result, ttl)
    bind = transaction.get_bind() if hasattr(transaction, "get_bind") else transaction
    name = getattr(getattr(bind, "dialect", None), "name", None)
    if name not in _DIALECTS:
        what = "a SQLAlchemy session or connection, or Django's alias, on PostgreSQL or SQLite"
        raise LedgerError("your transaction", f"{type(transaction).__name__} is not {what}")
    return bool(transaction.execute(finishing(name, key, owner, result, ttl)).rowcount > 0)


def _in_django(connection: Any, key: Key, owner: str, result: Result, ttl: timedelta) -> bool:
    if not connection.in_atomic_block:
        raise LedgerError(f"Django's {connection.alias}", "finish_in needs a transaction: call it in `with atomic():`")
    if connection.vendor not in _DIALECTS:
        raise LedgerError(f"Django's {connection.alias}", f"{connection.vendor} holds no ledger")
    # Django writes `%s` on every database
    dialect: Any = _DIALECTS[connection.vendor](paramstyle="format")
    compiled = finishing(connection.vendor, key, owner, result, ttl).compile(dialect=dialect)
    values = [compiled.params[name] for name in compiled.positiontup or ()]
    with connection.cursor() as cursor:
        cursor.execute(str(compiled), values)
        return bool(cursor.rowcount > 0)


def _beginning(conn: Connection, key: Key, run: Run, arguments: str, lease: timedelta) -> Any:
    """The statement that begins the work if it may be begun; returns the fence, or no row."""
    now, insert = _now(conn), postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    taken: dict[str, Any] = {
        "state": State.RUNNING.value,
        "owner": run.owner,
        "work": run.work,
        "turn": run.turn,
        "arguments": arguments,
        "task": cut(run.task),
        "task_id": cut(run.task_id),
        "began_at": now,
        "until": now + _microseconds(lease),
        "done_at": None,
        "kept": Kept.NONE.value,
        "body": b"",
        "content_type": "",
    }
    named = {"digest": key.digest, "environment": key.environment, "scope": cut(key.scope), "text": cut(key.text)}
    mine = and_(
        ledger.c.state == State.RUNNING.value,
        ledger.c.work == run.work,
        or_(ledger.c.turn < run.turn, ledger.c.owner == run.owner),
    )
    may = or_(ledger.c.state == State.FREE.value, _number(ledger.c.until) <= now, mine)
    statement = insert(ledger).values(**named, fence=1, **taken)
    statement = statement.on_conflict_do_update(
        index_elements=[ledger.c.digest], set_={**taken, "fence": ledger.c.fence + 1}, where=may
    )
    return statement.returning(ledger.c.fence)


def _read(conn: Connection, key: Key) -> Line | None:
    left = (_number(ledger.c.until) - _now(conn)).label("left")
    row = conn.execute(select(ledger, left).where(ledger.c.digest == key.digest)).first()
    if row is None:
        return None
    return Line(
        State(row.state), row.work, row.turn, row.owner, row.arguments, row.task_id, row.left / 1_000_000, row.done_at,
        Result(Kept(row.kept), row.body, row.content_type),
    )  # fmt: skip


def _of(owners: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    return ledger.c.owner.in_(sorted(owners)), ledger.c.state == State.RUNNING.value


def _now(conn: Connection) -> ColumnElement[int]:
    return _now_of(conn.dialect.name)


def _now_of(dialect: str) -> ColumnElement[int]:
    """This instant in microseconds, by the clock that all who use the database share."""
    if dialect == "postgresql":
        return literal_column(_PG_NOW, BigInteger)
    return literal(round(clock.now().timestamp() * 1_000_000), BigInteger)


def _after(conn: Connection, time: timedelta | float) -> ColumnElement[int]:
    return _now(conn) + _microseconds(time if isinstance(time, timedelta) else timedelta(seconds=time))


def _microseconds(time: timedelta) -> int:
    return int(time.total_seconds() * 1_000_000)


def _number(column: Any) -> ColumnElement[int]:
    """An instant's column as the number that it is in the database."""
    return type_coerce(column, BigInteger)
