"""Work noted as done in the application's own transaction: with its data, or not at all."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from celery_guardrails.errors import LeaseLost, LedgerError
from celery_guardrails.idempotency.key import key_of_text
from celery_guardrails.idempotency.ledger import Begun, Done, Kept, Ledger, Result, Run, State
from celery_guardrails.idempotency.redis import RedisLedger
from celery_guardrails.policy import Idempotency
from celery_guardrails.store.ledger import SqlLedger
from celery_guardrails.worker.child.once import Claim
from tests.archive import migrated_file

HOUR = timedelta(hours=1)
KEY = key_of_text("production", "shop.charge", "order-4711")
FIRST = Run("run-1", "work-1", 0, "shop.charge", "id-1")
OTHER = Run("run-2", "work-2", 0, "shop.charge", "id-2")
RESULT = Result(Kept.HERE, b"4711", "application/json utf-8")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return migrated_file(tmp_path / "archive.sqlite3")
    found: str = request.getfixturevalue("migrated_postgresql_url")
    return found


@pytest.fixture
def ledger(url: str) -> Iterator[SqlLedger]:
    made = SqlLedger(url)
    yield made
    made.close()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    made = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with made.begin() as conn:
        conn.execute(text("CREATE TABLE paid (order_id integer)"))
    yield made
    made.dispose()


def claim(ledger: Ledger, run: Run = FIRST) -> Claim:
    answer = ledger.begin(KEY, run, "", timedelta(seconds=60))
    assert isinstance(answer, Begun)
    return Claim(ledger, Idempotency(), KEY, run, answer.fence, lambda claim, result: RESULT)


def paid(engine: Engine) -> int:
    with engine.connect() as conn:
        return int(conn.execute(text("SELECT count(*) FROM paid")).scalar_one())


@pytest.mark.parametrize("kind", ["connection", "session"])
def test_it_is_done_exactly_if_the_transaction_is_committed(ledger: SqlLedger, engine: Engine, kind: str) -> None:
    mine = claim(ledger)

    def pay(fails: bool) -> None:
        with engine.connect() if kind == "connection" else Session(engine) as target, target.begin():
            target.execute(text("INSERT INTO paid VALUES (4711)"))
            mine.finish_in(target, 4711)
            if fails:
                raise RuntimeError("the card is refused")

    with pytest.raises(RuntimeError):
        pay(fails=True)
    entry = ledger.entry(KEY)
    assert entry is not None
    assert (paid(engine), entry.state) == (0, State.RUNNING)
    pay(fails=False)
    answer = ledger.begin(KEY, OTHER, "", HOUR)
    assert isinstance(answer, Done)
    assert (paid(engine), answer.result) == (1, RESULT)


def test_a_run_that_lost_its_lease_cannot_commit(ledger: SqlLedger, engine: Engine) -> None:
    mine = claim(ledger)
    assert ledger.free("run-1")
    claim(ledger, OTHER)

    def pay() -> None:
        with engine.begin() as conn:
            conn.execute(text("INSERT INTO paid VALUES (4711)"))
            mine.finish_in(conn)

    with pytest.raises(LeaseLost) as lost:
        pay()
    assert (lost.value.key, lost.value.fence) == ("order-4711", 1)
    assert paid(engine) == 0


def test_whoever_asks_meanwhile_waits_for_the_commit_and_leases_of_others_do_not(
    ledger: SqlLedger, engine: Engine, url: str
) -> None:
    if not url.startswith("postgresql"):
        pytest.skip("SQLite has one lock for the whole file")
    mine, answers = claim(ledger), []
    ledger.begin(key_of_text("production", "shop.charge", "other"), OTHER, "", HOUR)
    with engine.begin() as conn:
        mine.finish_in(conn, 4711)
        assert ledger.renew(["run-1", "run-2"], HOUR) == {"run-2"}
        asks = threading.Thread(target=lambda: answers.append(ledger.begin(KEY, OTHER, "", HOUR)))
        asks.start()
        asks.join(0.5)
        assert answers == []
    asks.join(30)
    assert isinstance(answers[0], Done)


def test_a_transaction_elsewhere_is_a_mistake(ledger: SqlLedger, tmp_path: Path) -> None:
    in_redis = Claim(RedisLedger("redis://127.0.0.1:1"), Idempotency(), KEY, FIRST, 1, lambda claim, result: RESULT)
    other = create_engine(migrated_file(tmp_path / "other.sqlite3"))
    with pytest.raises(LedgerError, match="in another database"), other.begin() as conn:
        claim(ledger).finish_in(conn)
    other.dispose()
    with pytest.raises(LedgerError, match="list is not a SQLAlchemy session"):
        claim(ledger, Run("run-1", "work-1", 1, "t", "i")).finish_in([])
    with pytest.raises(LedgerError, match="set idempotency"):
        in_redis.finish_in(None)


DJANGO = """
    import sys
    from datetime import timedelta
    from django.conf import settings
    settings.configure(DATABASES={"default": __DATABASE__})
    import django
    django.setup()
    from django.db import connection, transaction
    from celery_guardrails.errors import LeaseLost, LedgerError
    from celery_guardrails.idempotency.ledger import State
    from celery_guardrails.store.ledger import SqlLedger
    from tests.contract.ledger.test_finish_in import KEY, claim
    ledger = SqlLedger(sys.argv[1])
    mine = claim(ledger)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE paid (order_id integer)")
    def pay(fails):
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("INSERT INTO paid VALUES (4711)")
            mine.finish_in("default", 4711)
            if fails:
                raise RuntimeError
    def paid():
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM paid")
            return cursor.fetchone()[0]
    try:
        mine.finish_in("default")
    except LedgerError as exc:
        assert "with atomic()" in str(exc), exc
    else:
        raise SystemExit("no transaction, and no error")
    try:
        pay(True)
    except RuntimeError:
        pass
    assert (paid(), ledger.entry(KEY).state) == (0, State.RUNNING)
    pay(False)
    assert (paid(), ledger.entry(KEY).state) == (1, State.DONE)
    ledger.forget(KEY)
    try:
        pay(False)
    except LeaseLost:
        pass
    assert paid() == 1
    print("as it should be")
"""


def test_in_django(url: str) -> None:
    from sqlalchemy import make_url

    parsed = make_url(url)
    kind = parsed.get_backend_name()
    database: dict[str, Any] = {"ENGINE": f"django.db.backends.{kind}{'3' if kind == 'sqlite' else ''}"}
    database["NAME"] = parsed.database
    if kind == "postgresql":
        database.update(HOST=parsed.host, PORT=parsed.port, USER=parsed.username, PASSWORD=parsed.password or "")
    code = textwrap.dedent(DJANGO).replace("__DATABASE__", repr(database))
    said = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, timeout=120, check=False)
    assert said.stdout.strip() == "as it should be", said.stderr
