"""What drivers of databases and of HTTP raise: the real errors of those installed, stand-ins of the same path else.

A class is known by its dotted path and its bases alone, so a stand-in that has them is as good as the real one.
"""

from __future__ import annotations

import itertools
import socket
import sqlite3
import types
from typing import Any

import psycopg
import psycopg.errors
import pytest

from celery_guardrails.errors import PermanentError, TransientError
from celery_guardrails.policy.taxonomy import classify, classify_with_cause

LOCK, TIMEOUT, CONNECTION = ("lock", True), ("timeout", True), ("connection", True)
BUG, VALIDATION, AUTH, UNKNOWN = ("bug", False), ("validation", False), ("auth", False), ("unknown", None)


def verdict(error: BaseException) -> tuple[str, bool | None]:
    found = classify(error)
    return found.category.value, found.transient


def kind(path: str, *bases: type, **attributes: Any) -> type:
    """A class that knows itself by this path."""
    module, _, name = path.rpartition(".")
    return type(name, bases or (Exception,), {"__module__": module, **attributes})


DJANGO = kind("django.db.utils.Error")
DJANGO_DATABASE = kind("django.db.utils.DatabaseError", DJANGO)


def django(name: str, cause: BaseException | None, text: str = "") -> BaseException:
    """As Django raises: its class of that name, from the driver's error."""
    base = DJANGO if name == "InterfaceError" else DJANGO_DATABASE
    error: BaseException = kind(f"django.db.utils.{name}", base)(text)
    error.__cause__ = cause
    return error


def mysql(driver: str, name: str, number: int) -> BaseException:
    base = kind(f"{driver}.Error")
    if driver.startswith("mysql.connector"):
        return kind(f"{driver}.{name}", base, errno=number, sqlstate="HY000")("no")  # type: ignore[no-any-return]
    return kind(f"{driver}.{name}", base)(number, "no")  # type: ignore[no-any-return]


MYSQL = ["MySQLdb", "MySQLdb._exceptions", "pymysql.err", "mysql.connector.errors"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (django("OperationalError", psycopg.OperationalError("connection refused")), CONNECTION),
        (django("OperationalError", psycopg.errors.AdminShutdown("terminating")), CONNECTION),
        (django("OperationalError", psycopg.errors.CannotConnectNow("starting up")), CONNECTION),
        (django("OperationalError", psycopg.errors.DeadlockDetected("deadlock")), LOCK),
        (django("OperationalError", psycopg.errors.SerializationFailure("could not serialize")), LOCK),
        (django("OperationalError", psycopg.errors.LockNotAvailable("lock timeout")), LOCK),
        (django("OperationalError", psycopg.errors.QueryCanceled("statement timeout")), TIMEOUT),
        (django("OperationalError", psycopg.OperationalError('password authentication failed for "ada"')), AUTH),
        (django("OperationalError", sqlite3.OperationalError("database is locked")), LOCK),
        (django("OperationalError", sqlite3.OperationalError("no such table: shop_order")), BUG),
        (django("OperationalError", None), CONNECTION),
        (django("OperationalError", kind("oracledb.DatabaseError")("ORA-00001")), UNKNOWN),
        (django("InterfaceError", None, "connection already closed"), CONNECTION),
        (django("InterfaceError", kind("psycopg2.InterfaceError")("connection already closed")), CONNECTION),
        (django("InterfaceError", psycopg.InterfaceError("the cursor is closed")), BUG),
        (django("IntegrityError", psycopg.errors.UniqueViolation("duplicate key")), VALIDATION),
        (django("IntegrityError", sqlite3.IntegrityError("UNIQUE constraint failed")), VALIDATION),
        (django("IntegrityError", None), VALIDATION),
        (django("DataError", psycopg.errors.NumericValueOutOfRange("out of range")), VALIDATION),
        (django("ProgrammingError", psycopg.errors.UndefinedTable("no such table")), BUG),
        (django("NotSupportedError", None), BUG),
    ],
)
def test_djangos_error_is_what_it_wraps(error: BaseException, expected: tuple[str, bool | None]) -> None:
    assert verdict(error) == expected


@pytest.mark.parametrize("driver", MYSQL)
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("OperationalError", 1205, LOCK),
        ("OperationalError", 1213, LOCK),
        ("InternalError", 1213, LOCK),
        ("OperationalError", 2003, CONNECTION),
        ("OperationalError", 2006, CONNECTION),
        ("InterfaceError", 2013, CONNECTION),
        ("OperationalError", 1040, ("resource", True)),
        ("OperationalError", 1290, CONNECTION),
        ("OperationalError", 3024, TIMEOUT),
        ("OperationalError", 1045, AUTH),
        ("OperationalError", 1049, ("not_found", False)),
        ("OperationalError", 1054, BUG),
        ("OperationalError", 1364, VALIDATION),
        ("OperationalError", 1999, UNKNOWN),
        ("IntegrityError", 1062, VALIDATION),
        ("IntegrityError", 1999, VALIDATION),
        ("ProgrammingError", 1064, BUG),
    ],
)
def test_mysql_is_known_by_its_numbers(
    driver: str, wrap: bool, name: str, number: int, expected: tuple[str, bool | None]
) -> None:
    error = mysql(driver, name, number)
    assert verdict(django(name, error) if wrap else error) == expected


PSYCOPG2 = kind("psycopg2.OperationalError")
AIOHTTP = kind("aiohttp.client_exceptions.ClientError")
MONGO = kind("pymongo.errors.PyMongoError", has_error_label=lambda self, label: label in getattr(self, "labels", ()))
API = kind("elastic_transport.ApiError")
MONGO_FAILED = kind("pymongo.errors.OperationFailure", MONGO)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PSYCOPG2("server closed the connection unexpectedly"), CONNECTION),
        (PSYCOPG2('FATAL:  password authentication failed for user "ada"'), AUTH),
        (kind("psycopg2.errors.DeadlockDetected", PSYCOPG2, pgcode="40P01")("deadlock"), LOCK),
        (kind("psycopg2.errors.LockNotAvailable", PSYCOPG2, pgcode="55P03")("lock"), LOCK),
        (kind("psycopg2.extensions.TransactionRollbackError", PSYCOPG2)("x"), LOCK),
        (kind("psycopg2.InterfaceError")("connection already closed"), CONNECTION),
        (kind("psycopg2.InterfaceError")("cursor already closed"), BUG),
        (kind("psycopg2.IntegrityError")("duplicate"), VALIDATION),
        (kind("asyncpg.exceptions._base.InterfaceError")("connection is closed"), CONNECTION),
        (kind("asyncpg.exceptions._base.InterfaceError")("another operation is in progress"), UNKNOWN),
        (kind("asyncpg.exceptions.SerializationError", sqlstate="40001")("x"), LOCK),
        (kind("asyncpg.exceptions.ConnectionDoesNotExistError", sqlstate="08003")("x"), CONNECTION),
        (kind("aiohttp.client_exceptions.ClientConnectionError", AIOHTTP)("x"), CONNECTION),
        (kind("aiohttp.client_exceptions.ServerTimeoutError", AIOHTTP)("x"), TIMEOUT),
        (kind("aiohttp.client_exceptions.ClientPayloadError", AIOHTTP)("x"), CONNECTION),
        (kind("aiohttp.client_exceptions.ClientResponseError", AIOHTTP, status=503)("x"), ("server_error", True)),
        (kind("aiohttp.client_exceptions.ClientResponseError", AIOHTTP, status=422)("x"), VALIDATION),
        (kind("aiohttp.client_exceptions.ClientSSLError", AIOHTTP)("[SSL: CERTIFICATE_VERIFY_FAILED] x"),
         ("connection", False)),
        (kind("pymongo.errors.AutoReconnect", kind("pymongo.errors.ConnectionFailure", MONGO))("x"), CONNECTION),
        (kind("pymongo.errors.NetworkTimeout", MONGO)("x"), TIMEOUT),
        (kind("x.OperationFailure", MONGO_FAILED, code=112)("WriteConflict"), LOCK),
        (kind("x.OperationFailure", MONGO_FAILED, code=189)("PrimarySteppedDown"), CONNECTION),
        (kind("x.OperationFailure", MONGO_FAILED, code=13)("Unauthorized"), AUTH),
        (kind("x.OperationFailure", MONGO_FAILED, code=99999)("odd"), UNKNOWN),
        (kind("x.OperationFailure", MONGO_FAILED, code=99999, labels=("TransientTransactionError",))("odd"),
         ("server_error", True)),
        (kind("pymongo.errors.DuplicateKeyError", MONGO_FAILED, code=11000)("x"), VALIDATION),
        (kind("elastic_transport.ConnectionTimeout")("x"), TIMEOUT),
        (kind("elastic_transport.ConnectionError")("x"), CONNECTION),
        (kind("elasticsearch.ApiError", API, meta=types.SimpleNamespace(status=503))("x"),
         ("server_error", True)),
        (kind("elasticsearch.ApiError", API, meta=types.SimpleNamespace(status=400))("x"),
         VALIDATION),
        (kind("elasticsearch.exceptions.TransportError", status_code=429)("x"), ("rate_limit", True)),
        (kind("opensearchpy.exceptions.ConnectionTimeout", kind("opensearchpy.exceptions.TransportError"),
              status_code="TIMEOUT")("x"), TIMEOUT),
    ],
)  # fmt: skip
def test_other_drivers(error: BaseException, expected: tuple[str, bool | None]) -> None:
    assert verdict(error) == expected


def test_real_errors_of_asyncpg() -> None:
    asyncpg = pytest.importorskip("asyncpg")
    assert verdict(asyncpg.exceptions.DeadlockDetectedError("x")) == LOCK
    assert verdict(asyncpg.exceptions.CannotConnectNowError("x")) == CONNECTION
    assert verdict(asyncpg.exceptions.TooManyConnectionsError("x")) == ("resource", True)
    assert verdict(asyncpg.exceptions.UniqueViolationError("x")) == VALIDATION
    assert verdict(asyncpg.InterfaceError("connection is closed")) == CONNECTION


def test_real_errors_of_pymongo() -> None:
    errors = pytest.importorskip("pymongo.errors")
    assert verdict(errors.ServerSelectionTimeoutError("No servers found yet")) == CONNECTION
    assert verdict(errors.NetworkTimeout("x")) == TIMEOUT
    assert verdict(errors.OperationFailure("x", 112)) == LOCK
    labelled = errors.OperationFailure("x", 99999, {"errorLabels": ["RetryableWriteError"]})
    assert verdict(labelled) == ("server_error", True)
    assert verdict(errors.DuplicateKeyError("x", 11000)) == VALIDATION


def test_real_errors_of_pymysql() -> None:
    pymysql = pytest.importorskip("pymysql")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(pymysql.err.OperationalError) as refused:
        pymysql.connect(host="127.0.0.1", port=port)
    assert verdict(refused.value) == CONNECTION
    assert verdict(pymysql.err.OperationalError(1213, "Deadlock found")) == LOCK
    assert verdict(pymysql.err.InterfaceError(0, "")) == CONNECTION
    assert verdict(pymysql.err.IntegrityError(1062, "Duplicate")) == VALIDATION


def raised_from(*errors: BaseException) -> BaseException:
    """The first, raised from the second, raised from the third, ..."""
    for outer, inner in itertools.pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


class OursError(Exception):
    """An error that the taxonomy has no name for."""


def test_an_unknown_error_is_the_transient_one_it_was_raised_from() -> None:
    inner = ConnectionResetError("reset")
    error = raised_from(OursError("no stock service"), OursError("http"), inner)
    assert verdict(error) == CONNECTION
    assert classify_with_cause(error)[1] is inner


@pytest.mark.parametrize(
    "error",
    [
        raised_from(OursError(), ValueError("no number"), TimeoutError()),  # somebody has made up their mind on the way
        raised_from(OursError(), PermanentError("no"), TimeoutError()),
        raised_from(OursError(), KeyError("x")),
        raised_from(OursError(), *(OursError() for _ in range(20)), TimeoutError()),
        OursError(),
    ],
)
def test_the_first_name_decides_and_what_is_not_transient_stays_unknown(error: BaseException) -> None:
    assert verdict(error) == UNKNOWN
    assert classify_with_cause(error)[1] is None


def test_an_error_with_a_name_is_not_looked_behind() -> None:
    assert verdict(raised_from(ValueError("too late to be a number"), TimeoutError())) == VALIDATION
    assert verdict(raised_from(PermanentError("no"), TimeoutError())) == ("unknown", False)
    assert verdict(raised_from(TransientError("soon"), ValueError())) == ("unknown", True)


def test_what_was_merely_handled_at_the_time_does_not_count() -> None:
    error = OursError()
    error.__context__ = TimeoutError()
    assert verdict(error) == UNKNOWN


def test_causes_that_go_round_end() -> None:
    first, second = OursError("a"), OursError("b")
    first.__cause__, second.__cause__ = second, first
    assert verdict(first) == UNKNOWN
    first.__cause__ = first
    assert verdict(first) == UNKNOWN


def test_a_cause_that_cannot_be_asked_is_none() -> None:
    class Broken(Exception):
        @property
        def __cause__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("broken")

    assert verdict(Broken()) == UNKNOWN
