"""Opening an archive: migrated once, refused when it cannot be understood, and never made by those who only read."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from celery_guardrails.errors import NoArchive, SchemaMismatch, StoreError
from celery_guardrails.letters.recovery import Recovery
from celery_guardrails.policy.decision import Reason
from celery_guardrails.recovery.transition import claim_requeue
from celery_guardrails.store import alert, expected, figure_table, ledger_table, outbox, silence, table
from celery_guardrails.store import letter as reading
from celery_guardrails.store.engine import SchemaState, Store, open_store
from celery_guardrails.store.filter import Query
from celery_guardrails.store.metadata import metadata
from celery_guardrails.store.record import Outcome
from tests.contract.store.conftest import LATER_TABLES, NOW, Mortuary
from tests.servers_postgres import PostgreSQLServer


def test_a_reader_does_not_make_the_archive(url: str) -> None:
    for _ in range(2):
        with pytest.raises(NoArchive, match=r"no archive yet: start a guardian \(celery -A shop guardian\)"):
            open_store(url, create=False, app="shop")


def test_a_reader_opens_what_is_there(url: str, store: Store) -> None:
    reader = open_store(url, create=False)
    assert reader.check() is SchemaState.CURRENT
    reader.close()


def test_migrating_twice_changes_nothing(store: Store) -> None:
    store.migrate()
    assert store.ready() is store


def test_the_migrations_make_what_the_tables_declare(store: Store) -> None:
    # each module that has tables is imported here, whatever other tests have imported
    known = {
        table.audit,
        alert.alert_group,
        outbox.alert_outbox,
        silence.silence,
        expected.expected,
        figure_table.figure,
        ledger_table.ledger,
    }
    assert {each.name for each in known} <= metadata.tables.keys()
    with store.read() as conn:
        options = {"version_table": "guardrails_schema", "compare_type": False}
        assert compare_metadata(MigrationContext.configure(conn, opts=options), metadata) == []


def test_every_name_in_the_database_says_whose_it_is(store: Store) -> None:
    with store.read() as conn:
        inspector = inspect(conn)
        tables = inspector.get_table_names()
        assert len(tables) == len(metadata.tables) + 1
        assert {name for name in tables if not name.startswith("guardrails_")} == set()
        # names that PostgreSQL makes up itself begin with the table's
        for name in set(tables) - {"guardrails_schema"}:
            named = [*inspector.get_indexes(name), *inspector.get_unique_constraints(name)]
            named += [inspector.get_pk_constraint(name), *inspector.get_foreign_keys(name)]
            names = [str(entry["name"]) for entry in named if entry["name"] is not None]
            assert [own for own in names if name not in own] == []
        rules = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        if conn.dialect.name == "postgresql":
            rules = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
        triggers = conn.execute(text(rules)).scalars().all()
        assert triggers
        assert all(name.startswith("guardrails_audit_") for name in triggers)


def test_an_application_may_have_tables_of_the_same_words(url: str) -> None:
    words = [name.removeprefix("guardrails_") for name in metadata.tables]
    store = open_store(url)
    with store.begin() as conn:
        for word in words:
            conn.execute(text(f"CREATE TABLE {word} (note TEXT)"))
            conn.execute(text(f"INSERT INTO {word} VALUES ('theirs')"))
    store.migrate()
    assert store.check() is SchemaState.CURRENT
    with store.begin() as conn:
        for word in words:
            assert conn.execute(text(f"UPDATE {word} SET note = 'changed'")).rowcount == 1
    store.close()


def test_a_newer_schema_is_refused_and_left_alone(store: Store) -> None:
    with store.begin() as conn:
        conn.execute(text("UPDATE guardrails_schema SET version_num = '9999'"))
    for refused in (store.check, store.migrate, store.ready):
        with pytest.raises(SchemaMismatch, match="9999 is newer than this version"):
            refused()
    with store.read() as conn:
        assert conn.execute(text("SELECT version_num FROM guardrails_schema")).scalar() == "9999"


def test_an_empty_database_is_migrated(url: str) -> None:
    store = open_store(url)
    assert store.check() is SchemaState.EMPTY
    assert store.ready().check() is SchemaState.CURRENT
    store.close()


def _make_older(store: Store) -> None:
    with store.begin() as conn:
        conn.execute(text("ALTER TABLE guardrails_dead_letter DROP COLUMN may_have_run"))
        for index in ("dead_letter_task_id", "dead_letter_resolved_at", "audit_at"):
            conn.execute(text(f"DROP INDEX ix_guardrails_{index}"))
        if store.engine.dialect.name == "postgresql":
            conn.execute(text("DROP FUNCTION guardrails_audit_refuse_delete CASCADE"))
        conn.execute(text("DROP TABLE guardrails_audit_cut"))
        for name in ("guardrails_claim", *LATER_TABLES):
            conn.execute(text(f"DROP TABLE {name}"))
        conn.execute(text("UPDATE guardrails_schema SET version_num = '0002'"))


def test_an_older_schema_without_data_is_migrated(store: Store) -> None:
    _make_older(store)
    assert store.check() is SchemaState.OLDER
    assert store.ready().check() is SchemaState.CURRENT


def test_an_older_schema_with_data_is_migrated_on_sqlite_and_asked_about_on_postgresql(
    url: str, mortuary: Mortuary
) -> None:
    mortuary.archive_new()
    store = open_store(url, app="shop.celery")
    _make_older(store)
    if url.startswith("sqlite"):
        assert store.check() is SchemaState.OLDER
        assert store.ready().check() is SchemaState.CURRENT
    else:
        words = "older than this version, run: celery -A shop.celery guardrails migrate"
        with pytest.raises(SchemaMismatch, match=words):
            store.ready()
    store.close()


def test_what_is_archived_already_is_judged_by_the_migration(mortuary: Mortuary) -> None:
    doubtful = [mortuary.archive_new(reason=reason).id for reason in (Reason.WORKER_LOST, Reason.CANCELLED)]
    doubtful += [mortuary.archive_new(policy={"acks": "early"}).id for _ in range(3)]
    mortuary.archive_new()
    mortuary.archive_new(policy={"acks": "late"})
    mortuary.archive_new(reason=Reason.EXPIRED, policy={"acks": "early"})
    _make_older(mortuary.store)
    mortuary.store.migrate()
    query = Query().with_term("may_have_run", "yes")
    with mortuary.store.read() as conn:
        assert sorted(row.id for row in reading.search(conn, query).letters) == sorted(doubtful)
        assert reading.count(conn, Query().with_term("may_have_run", "no")) == 3


def test_what_is_put_back_already_is_believed_without_a_token_after_the_migration(mortuary: Mortuary) -> None:
    put_back, twice, fresh = mortuary.archive_new(), mortuary.archive_new(), mortuary.archive_new()
    mortuary.archive(mortuary.further(twice, 1))
    for letter in (put_back, twice):
        claim_requeue(mortuary.store, letter.id, "ann", "mended", NOW)
    _make_older(mortuary.store)
    mortuary.store.migrate()
    reports = [Recovery(put_back.id, 1, NOW), Recovery(twice.id, 2, NOW), Recovery(fresh.id, 1, NOW)]
    with mortuary.store.begin() as conn:
        assert [found.recovered for found in reading.recover(conn, reports, NOW)] == [True, True, False]
    late = mortuary.letter(dead_letter_id=twice.id, generation=1)
    assert [found.outcome for found in mortuary.archive(late)] == [Outcome.STALE]


def test_several_processes_migrate_at_once(url: str) -> None:
    code = f"from celery_guardrails.store.engine import open_store; open_store({url!r}).ready()"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    reader = open_store(url, create=False)
    assert reader.check() is SchemaState.CURRENT
    reader.close()


def _insert_and_fail(store: Store, error: Exception | None) -> None:
    one = text("INSERT INTO guardrails_lease (name, owner, fence, expires_at) VALUES ('a', 'b', 1, 1)")
    with store.begin() as conn:
        conn.execute(one)
        if error is not None:
            raise error
        conn.execute(one)


def test_an_error_in_the_block_undoes_it(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        _insert_and_fail(store, ZeroDivisionError())
    with pytest.raises(StoreError, match=r"(?i)unique"):
        _insert_and_fail(store, None)
    with store.read() as conn:
        assert conn.execute(table.lease.select()).all() == []


def test_a_password_is_never_shown() -> None:
    with pytest.raises(StoreError) as caught, open_store("postgresql://u:hush@127.0.0.1:1/x?sslpassword=hush").read():
        pass
    assert "hush" not in str(caught.value)
    assert "postgresql://u:***@127.0.0.1:1/x" in str(caught.value), "as it is written in the setting, without a driver"


def test_a_postgresql_that_refuses_is_not_away(postgresql_url: str) -> None:
    store = open_store(postgresql_url + "_nobody_made")
    with pytest.raises(StoreError, match="does not exist") as caught:
        store.check()
    assert not caught.value.away
    store.close()


def test_postgresql_that_is_away_is_a_clear_error_and_comes_back(own_postgresql: PostgreSQLServer) -> None:
    store = open_store(own_postgresql.fresh_url())
    store.migrate()
    own_postgresql.stop()
    try:
        with pytest.raises(StoreError) as caught, store.begin():
            pass
        assert caught.value.away
        assert "Is the server running" not in str(caught.value)  # which libpq asks of whoever reads it
    finally:
        own_postgresql.start()
    assert store.check() is SchemaState.CURRENT
    store.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "is no database URL: write sqlite:///file.db"),
        ("mysql://root@localhost/x", "mysql is not supported"),
        ("sqlite:////nowhere/at/all/archive.db", "the folder /nowhere/at/all does not exist"),
    ],
)
def test_an_impossible_url_is_a_clear_error(url: str, problem: str) -> None:
    with pytest.raises(StoreError, match=problem):
        open_store(url)


def test_what_is_no_database_is_a_clear_error(tmp_path) -> None:
    (tmp_path / "archive.db").write_bytes(b"not a database at all" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        open_store(f"sqlite:///{tmp_path / 'archive.db'}").ready()
    with pytest.raises(StoreError, match=r"unable to open database file \(see whether this user may write"):
        open_store(f"sqlite:///{tmp_path}").ready()


def test_a_sqlite_archive_that_another_process_keeps_locked_is_a_clear_error(store_file, monkeypatch) -> None:
    monkeypatch.setattr("celery_guardrails.store.engine.BUSY_TIMEOUT", 0.05)
    store = open_store(store_file)
    store.migrate()
    other = open_store(store_file)
    with store.begin(), pytest.raises(StoreError, match="locked"), other.begin():
        pass
    with store.begin(), other.read() as conn:
        assert conn.execute(table.lease.select()).all() == []
    store.close()
    other.close()


def test_a_new_sqlite_archive_that_another_process_is_making_is_waited_for(tmp_path) -> None:
    file = tmp_path / "archive.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # the mode of a new file cannot be changed now, and SQLite does not wait for it
    ending = threading.Timer(0.5, other.execute, ["COMMIT"])
    ending.start()
    store = open_store(f"sqlite:///{file}").ready()
    ending.join()
    assert store.check() is SchemaState.CURRENT
    store.close()
    other.close()


def test_many_processes_may_make_an_archive_at_once(tmp_path) -> None:
    failed: list[BaseException] = []

    def make(together: threading.Barrier, url: str) -> None:
        store = open_store(url)
        together.wait()
        try:
            store.ready()
        except StoreError as exc:
            failed.append(exc)
        store.close()

    for number in range(10):
        together, url = threading.Barrier(8), f"sqlite:///{tmp_path}/{number}.db"
        makers = [threading.Thread(target=make, args=(together, url)) for _ in range(8)]
        for maker in makers:
            maker.start()
        for maker in makers:
            maker.join()
    assert failed == []


def test_a_new_sqlite_archive_that_stays_locked_is_a_clear_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("celery_guardrails.store.engine.BUSY_TIMEOUT", 0.2)
    other = sqlite3.connect(tmp_path / "archive.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        open_store(f"sqlite:///{tmp_path / 'archive.db'}").ready()
    other.close()


def test_an_archive_in_memory_is_for_tests() -> None:
    store = open_store("sqlite://").ready()
    assert store.check() is SchemaState.CURRENT
    with pytest.raises(StoreError, match="no archive yet"):
        open_store("sqlite://", create=False)
    store.close()


def test_an_old_sqlite_and_a_missing_driver_are_clear_errors(monkeypatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 34, 1))
    with pytest.raises(StoreError, match="too old"):
        open_store("sqlite://")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match="psycopg is missing"):
        open_store("postgres://localhost/x")


@pytest.fixture
def store_file(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'archive.db'}"
