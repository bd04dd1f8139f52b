"""Opening the archive: one engine, one transaction at a time, and a schema that this version can read.

Owns the connection settings of SQLite and PostgreSQL, the migration and how a database's error becomes a
`StoreError`. It must not know what is in the tables.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from celery_guardrails.access import make_file
from celery_guardrails.command import celery_command
from celery_guardrails.errors import UNNAMED_APP, NoArchive, SchemaMismatch, StoreError
from celery_guardrails.redaction import is_denied
from celery_guardrails.redaction.address import ENCODE, database_problem, shown_address
from celery_guardrails.store.refusal import is_away, is_full, reason_of

__all__ = ["WRITE", "SchemaState", "Store", "open_store", "sqlite_file", "sqlite_files"]

VERSION_TABLE = "guardrails_schema"
BUSY_TIMEOUT = 5.0
"""Seconds that a SQLite statement waits for another process, and that PostgreSQL may take to answer a connection."""

_MIGRATION_LOCK = 0x67726472  # "grdr": any fixed number that no other application is likely to lock
_OLDEST_SQLITE = (3, 35)  # INSERT ... RETURNING
WRITE = "guardrails_write"
"""The option of a connection that says whether its transaction may write."""
# alembic's `context` and `op` are global to the process
_migrating = threading.Lock()


class SchemaState(str, Enum):
    """How an archive's schema compares with this version's."""

    CURRENT = "current"
    OLDER = "older"
    EMPTY = "empty"

    def __str__(self) -> str:
        return self.value


class Store:
    """The archive's database: it gives every query function its connection.

    Args:
        engine: made by `open_store`.
        app: what to write after `celery -A` in the commands that errors show.
    """

    def __init__(self, engine: Engine, app: str = UNNAMED_APP) -> None:
        self.engine = engine
        self.url = _shown(engine.url)
        self.app = app

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction that may write: committed at the end, rolled back after any error.

        On SQLite it takes the write lock at once, so that another process that writes cannot make it fail half way.

        Raises:
            StoreError: the database cannot be opened, is locked for over five seconds, or refuses a statement.
        """
        with self._transaction(write=True) as conn:
            yield conn

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only reads: on SQLite it waits for no writer.

        Raises:
            StoreError: as `begin`.
        """
        with self._transaction(write=False) as conn:
            yield conn

    def check(self) -> SchemaState:
        """How the archive's schema compares with this version's; changes nothing.

        Raises:
            SchemaMismatch: the schema is newer than this version. Or it is older, and the archive is on PostgreSQL and
                holds data: other guardians may still write into it, so a person decides when it is migrated.
            StoreError: the database cannot be read.
        """
        with self.read() as conn:
            state = self.state(conn)
            if state is SchemaState.OLDER and self.engine.dialect.name != "sqlite" and _holds_data(conn):
                run = celery_command(self.app, "guardrails migrate")
                raise SchemaMismatch(self.url, f"the schema is older than this version, run: {run}")
        return state

    def migrate(self) -> None:
        """Bring the schema up to this version's, in one transaction; safe if several processes do it at once.

        Raises:
            SchemaMismatch: the schema is newer than this version.
            StoreError: the database cannot be written.
        """
        with _migrating, self.begin() as conn:
            if conn.dialect.name == "postgresql":
                conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            if self.state(conn) is not SchemaState.CURRENT:
                config = _alembic()
                config.attributes["connection"] = conn
                command.upgrade(config, "head")

    def ready(self) -> Store:
        """This store, migrated to this version's schema if that is safe.

        It migrates a database without our tables, and an older archive that is on SQLite or holds no data.

        Raises:
            SchemaMismatch: as `check`.
            StoreError: as `migrate`.
        """
        if self.check() is not SchemaState.CURRENT:
            self.migrate()
        return self

    def close(self) -> None:
        """Close the connections; the store may still be used and opens new ones."""
        self.engine.dispose()

    def state(self, conn: Connection) -> SchemaState:
        """How the schema compares with this version's, inside a transaction; `check` also refuses an unusable archive.

        Raises:
            SchemaMismatch: the schema is newer than this version.
        """
        script = ScriptDirectory.from_config(_alembic())
        current = MigrationContext.configure(conn, opts={"version_table": VERSION_TABLE}).get_current_revision()
        if current is None:
            return SchemaState.EMPTY
        if current == script.get_current_head():
            return SchemaState.CURRENT
        if current in {revision.revision for revision in script.walk_revisions()}:
            return SchemaState.OLDER
        raise SchemaMismatch(self.url, f"its schema {current} is newer than this version: upgrade celery-guardrails")

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        try:
            with self.engine.connect().execution_options(**{WRITE: write}) as conn, conn.begin():
                yield conn
        except SQLAlchemyError as exc:
            raise StoreError(self.url, reason_of(exc), away=is_away(exc), full=is_full(exc)) from exc


def open_store(
    url: str, *, create: bool = True, verify: bool = True, ping: bool = True, app: str = UNNAMED_APP
) -> Store:
    """Open the archive.

    Args:
        url: `sqlite:///path/to/file.db`, `sqlite://` (in memory, for tests) or `postgresql://user:password@host/name`.
        create: `False` for callers that only read: a missing archive is an error, and is not created.
        verify: whether to check at once that the tables exist. With `False` the first statement finds out; use it with
            `create=False`, if you need only a single statement.
        ping: whether a kept connection to PostgreSQL is tried before each use, at one round trip.
        app: what to write after `celery -A` in the commands that errors show.

    Raises:
        NoArchive: with `create=False`, the archive does not exist yet.
        StoreError: the text is not a database URL, its driver is not installed, or the file's folder is missing.
    """
    if problem := database_problem(url):
        raise StoreError(shown_address(url), f"the url {problem}; {ENCODE}")
    parsed = _parsed(url)
    if parsed is None:
        raise StoreError("(store.url)", "is no database URL: write sqlite:///file.db or postgresql://user@host/name")
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        store = _sqlite(parsed, create, app)
    elif backend in {"postgresql", "postgres"}:
        store = _postgresql(parsed, ping, app)
    else:
        raise StoreError(_shown(parsed), f"{backend} is not supported: use sqlite or postgresql")
    if not create and verify:
        _require_archive(store)
    return store


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite archive, `:memory:` if it is in memory; `None` for another database or a wrong url."""
    parsed = _parsed(url)
    if parsed is None or parsed.get_backend_name() != "sqlite":
        return None
    return _file_of(parsed) or Path(":memory:")


def _parsed(url: str) -> URL | None:
    """The parsed url; `None` if it is not a URL. SQLAlchemy's error is dropped, because it may quote the password."""
    try:
        return make_url(url)
    except (SQLAlchemyError, ValueError):
        return None


def sqlite_files(path: Path) -> list[Path]:
    """The existing files of an SQLite archive: its own, and those that SQLite keeps beside it."""
    return [each for suffix in ("", "-wal", "-shm", "-journal") if (each := Path(f"{path}{suffix}")).exists()]


def _require_archive(store: Store) -> None:
    try:
        with store.read() as conn:
            if store.state(conn) is SchemaState.EMPTY:
                raise _no_archive(store.url, store.app)
    except StoreError:
        store.close()
        raise


def _no_archive(url: str, app: str) -> NoArchive:
    return NoArchive(url, f"no archive yet: start a guardian ({celery_command(app, 'guardian')})")


def _sqlite(url: URL, create: bool, app: str) -> Store:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreError(_shown(url), f"SQLite {sqlite3.sqlite_version} is too old, 3.35 is the oldest that works")
    args: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT, "check_same_thread": False}}
    path = _file_of(url)
    if path is None:
        args["poolclass"] = StaticPool
    else:
        if not path.parent.is_dir():
            raise StoreError(_shown(url), f"the folder {path.parent} does not exist")
        if not create and not path.exists():
            raise _no_archive(_shown(url), app)
    engine = create_engine(url.set(drivername="sqlite"), hide_parameters=True, **args)
    if path is not None:
        event.listen(engine, "do_connect", partial(_make_private, path))
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return Store(engine, app)


def _postgresql(url: URL, ping: bool, app: str) -> Store:
    url = url.set(drivername="postgresql+psycopg")
    connect_args = {} if "connect_timeout" in url.query else {"connect_timeout": int(BUSY_TIMEOUT)}
    try:
        engine = create_engine(
            url, hide_parameters=True, pool_pre_ping=ping, isolation_level="READ COMMITTED", connect_args=connect_args
        )
    except ImportError:
        raise StoreError(_shown(url), "psycopg is missing: pip install 'celery-guardrails[postgres]'") from None
    return Store(engine, app)


def _file_of(url: URL) -> Path | None:
    """The file of an SQLite url, which may be a URI in SQLite's own form; `None`: it is in memory."""
    name = url.database or ":memory:"
    if name.startswith("file:") and "uri" in url.query:
        name = ":memory:" if url.query.get("mode") == "memory" else unquote(name.removeprefix("file:"))
    return None if name == ":memory:" else Path(name)


def _make_private(path: Path, *_: Any) -> None:
    """Before a connection, make a missing file for its owner alone; the files that SQLite puts beside it follow.

    SQLite itself would make the file as the umask says; it gives the files beside it the mode of this file.
    """
    make_file(path)


def _prepare_sqlite(connection: Any, record: Any) -> None:
    # the driver's own implicit BEGIN comes too late to take the write lock first
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
    cursor.execute("PRAGMA foreign_keys = ON")
    # a commit survives a power cut: the queue is acknowledged on its strength
    cursor.execute("PRAGMA synchronous = FULL")
    _write_ahead(cursor)
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    """Put the file into WAL mode, as it stays; SQLite itself does not wait for others that make the file now."""
    until = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def _begin_sqlite(conn: Connection) -> None:
    write = conn.get_execution_options().get(WRITE, True)
    conn.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", "celery_guardrails.store:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _holds_data(conn: Connection) -> bool:
    """Whether an archive of an older schema holds a letter, or an entry of the audit trail."""
    tables = set(inspect(conn).get_table_names())
    kept = (name for name in ("guardrails_dead_letter", "guardrails_audit") if name in tables)
    return any(conn.execute(text(f"SELECT 1 FROM {name} LIMIT 1")).first() for name in kept)


def _shown(url: URL) -> str:
    hidden = {key: "***" for key in url.query if is_denied(key) or "pass" in key.lower()}
    # without the driver: we add it, the setting does not name it
    return url.update_query_dict(hidden).set(drivername=url.get_backend_name()).render_as_string(hide_password=True)
