"""What a failure is: its category, and whether another attempt is worth it, without importing any library.

Looks at the codes that an exception carries first, then at its classes by dotted path, nearest first. An exception that
neither names counts as the transient error that it was raised from (`raise ... from`). Otherwise it is unknown, and the
default policy does not retry it. It must not know policies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from celery_guardrails.policy import code
from celery_guardrails.policy.catalogue import CATALOGUE, Verdict
from celery_guardrails.policy.dotted import mro_names
from celery_guardrails.policy.failure import Category

__all__ = ["UNKNOWN", "classify", "classify_with_cause"]

UNKNOWN = Verdict(Category.UNKNOWN, None)
"""The verdict on an exception that no code and no class names."""

_DEEPEST = 5
_OURS = "celery_guardrails.errors."


def classify(exc: BaseException) -> Verdict:
    """What this exception is; never raises, whatever its attributes do."""
    return classify_with_cause(exc)[0]


def classify_with_cause(exc: BaseException) -> tuple[Verdict, BaseException | None]:
    """What this exception is, and the transient error that it was raised from, where the verdict is that error's.

    Follows `__cause__`, which somebody wrote, not `__context__`, which only says what was being handled. The first
    error with a name decides: a timeout that somebody turned into a `ValueError` is a `ValueError`.
    """
    verdict = _classify(exc, 0) or UNKNOWN
    inner, seen = exc, {id(exc)}
    while verdict == UNKNOWN and len(seen) <= _DEEPEST:
        cause = _cause(inner)
        if not isinstance(cause, BaseException) or id(cause) in seen:
            break
        inner = cause
        seen.add(id(inner))
        verdict = _classify(inner, 0) or UNKNOWN
    if inner is exc:
        return verdict, None
    return (verdict, inner) if verdict.transient else (UNKNOWN, None)


def _cause(exc: BaseException) -> BaseException | None:
    try:
        return exc.__cause__
    except Exception:  # noqa: BLE001  a property of foreign code
        return None


def _classify(exc: BaseException, depth: int) -> Verdict | None:
    names = mro_names(type(exc))
    # What the task itself says about its error is stronger than any code that the error carries.
    listed = next(((name, CATALOGUE[name]) for name in names if name in CATALOGUE), None)
    if listed and listed[0].startswith(_OURS):
        return listed[1]
    inspectors = [_INSPECTORS[name] for name in names if name in _INSPECTORS]
    for inspector in (*inspectors, _status, _sqlstate):
        verdict = _safely(inspector, exc, depth)
        if verdict is not None:
            return verdict
    # After the classes: ssl.SSLError and socket.gaierror keep numbers of their own in errno.
    return listed[1] if listed else _safely(_errno, exc, depth)


def _safely(inspector: _Inspector, exc: BaseException, depth: int) -> Verdict | None:
    try:
        return inspector(exc, depth)
    except Exception:  # noqa: BLE001  an attribute of foreign code can be a property that raises
        return None


def _status(exc: Any, depth: int) -> Verdict | None:
    response = getattr(exc, "response", None)
    for name in ("status_code", "status"):
        status = getattr(response, name, None)
        if isinstance(status, int):
            return code.of_http(status)
    return None


def _sqlstate(exc: Any, depth: int) -> Verdict | None:
    for name in ("sqlstate", "pgcode"):
        state = getattr(exc, name, None)
        if isinstance(state, str) and len(state) == 5:
            return code.of_sqlstate(state)
    return None


def _errno(exc: Any, depth: int) -> Verdict | None:
    return code.of_errno(exc.errno) if isinstance(exc, OSError) and isinstance(exc.errno, int) else None


def _url_status(exc: Any, depth: int) -> Verdict | None:
    return code.of_http(exc.code)


def _wrapped(exc: Any, depth: int) -> Verdict | None:
    """What the wrapped error is: `.reason` of urllib and urllib3, `.orig` of SQLAlchemy."""
    inner = getattr(exc, "reason", None) or getattr(exc, "orig", None)
    return _classify(inner, depth + 1) if isinstance(inner, BaseException) and depth < _DEEPEST else None


def _django(exc: Any, depth: int) -> Verdict | None:
    """Django's wrapper counts as the driver's error that it wraps."""
    inner = exc.__cause__
    if not isinstance(inner, BaseException):
        return _closed(exc, depth)
    return (_classify(inner, depth + 1) or UNKNOWN) if depth < _DEEPEST else UNKNOWN


def _closed(exc: Any, depth: int) -> Verdict | None:
    """Drivers raise the class for wrong use also when their connection is gone; only the message says so."""
    text = str(exc).lower()
    gone = "connection" in text and ("closed" in text or "lost" in text)
    return Verdict(Category.CONNECTION, True) if gone else None


def _mysql(exc: Any, depth: int) -> Verdict | None:
    number = _mysql_number(exc)
    return None if number is None else code.of_mysql(number)


def _mysql_operational(exc: Any, depth: int) -> Verdict | None:
    """MySQL uses this class for many kinds of errors: a number that is not listed makes the error unknown."""
    number = _mysql_number(exc)
    return None if number is None or number <= 0 else code.of_mysql(number) or UNKNOWN


def _mysql_number(exc: Any) -> int | None:
    number = getattr(exc, "errno", None)
    if number is None and exc.args:
        number = exc.args[0]
    return number if isinstance(number, int) else None


def _mongo(exc: Any, depth: int) -> Verdict | None:
    number = getattr(exc, "code", None)
    verdict = code.of_mongo(number) if isinstance(number, int) else None
    labels = ("TransientTransactionError", "RetryableWriteError")
    if verdict is None and any(exc.has_error_label(label) for label in labels):
        return Verdict(Category.SERVER_ERROR, True)
    return verdict


def _api_status(exc: Any, depth: int) -> Verdict | None:
    """The HTTP status that the error itself carries: aiohttp, Elasticsearch, OpenSearch."""
    for value in (getattr(exc, "status", None), getattr(exc, "status_code", None)):
        if isinstance(value, int):
            return code.of_http(value)
    return code.of_http(exc.meta.status)


def _too_many_responses(exc: Any, depth: int) -> Verdict | None:
    found = re.search(r"too many (\d{3}) error responses", str(exc))
    return code.of_http(int(found[1])) if found else None


def _redis(exc: Any, depth: int) -> Verdict | None:
    return code.of_redis(str(exc))


def _tls(exc: Any, depth: int) -> Verdict | None:
    text = str(exc)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return Verdict(Category.CONNECTION, False)
    return Verdict(Category.CONNECTION, True) if "EOF" in text else None


def _aws(exc: Any, depth: int) -> Verdict | None:
    response = exc.response
    verdict = code.of_aws(str(response.get("Error", {}).get("Code", "")))
    return verdict or code.of_http(int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)))


def _slack(exc: Any, depth: int) -> Verdict | None:
    status = getattr(exc.response, "status_code", 200)
    return code.of_http(status) or code.of_slack(str(exc.response.get("error") or ""))


def _grpc(exc: Any, depth: int) -> Verdict | None:
    return code.of_grpc(exc.code().name)


def _smtp(exc: Any, depth: int) -> Verdict | None:
    return code.of_smtp(exc.smtp_code)


def _smtp_recipients(exc: Any, depth: int) -> Verdict | None:
    """Transient where one recipient's refusal is: nobody got the message, so another attempt sends no duplicate."""
    verdicts = [code.of_smtp(int(reply[0])) for reply in exc.recipients.values()]
    known = [verdict for verdict in verdicts if verdict is not None]
    return max(known, key=lambda verdict: bool(verdict.transient), default=None)


def _sqlite(exc: Any, depth: int) -> Verdict | None:
    text = str(exc).lower()
    if "locked" in text or "busy" in text:
        return Verdict(Category.LOCK, True)
    if "no such" in text or "syntax error" in text:
        return Verdict(Category.BUG, False)
    return Verdict(Category.RESOURCE, None) if "full" in text else None


def _psycopg_connect(exc: Any, depth: int) -> Verdict | None:
    """A refused login has no SQLSTATE: only libpq's text says so."""
    state = getattr(exc, "sqlstate", None) or getattr(exc, "pgcode", None)
    refused = state is None and ("authentication failed" in str(exc) or "no pg_hba.conf entry" in str(exc))
    return Verdict(Category.AUTH, False) if refused else None


def _sqlalchemy(exc: Any, depth: int) -> Verdict | None:
    verdict = _wrapped(exc, depth)
    if getattr(exc, "connection_invalidated", False) and (verdict is None or not verdict.transient):
        return Verdict(Category.CONNECTION, True)
    return verdict


_Inspector = Callable[[BaseException, int], Verdict | None]

_INSPECTORS: Mapping[str, _Inspector] = {
    "aiohttp.client_exceptions.ClientResponseError": _api_status,
    "aiohttp.client_exceptions.ClientSSLError": _tls,
    "asyncpg.exceptions._base.InterfaceError": _closed,
    "botocore.exceptions.ClientError": _aws,
    "botocore.exceptions.SSLError": _tls,
    "django.db.utils.Error": _django,
    "elastic_transport.ApiError": _api_status,
    "elastic_transport.TlsError": _tls,
    "elasticsearch.exceptions.SSLError": _tls,
    "elasticsearch.exceptions.TransportError": _api_status,
    "grpc.RpcError": _grpc,
    "httpx.ConnectError": _tls,
    "mysql.connector.errors.Error": _mysql,
    "mysql.connector.errors.OperationalError": _mysql_operational,
    "MySQLdb.Error": _mysql,
    "MySQLdb.OperationalError": _mysql_operational,
    "MySQLdb._exceptions.Error": _mysql,
    "MySQLdb._exceptions.OperationalError": _mysql_operational,
    "opensearchpy.exceptions.SSLError": _tls,
    "opensearchpy.exceptions.TransportError": _api_status,
    "psycopg.InterfaceError": _closed,
    "psycopg.OperationalError": _psycopg_connect,
    "psycopg2.InterfaceError": _closed,
    "psycopg2.OperationalError": _psycopg_connect,
    "pymongo.errors.PyMongoError": _mongo,
    "pymysql.err.Error": _mysql,
    "pymysql.err.OperationalError": _mysql_operational,
    "requests.exceptions.SSLError": _tls,
    "slack_sdk.errors.SlackApiError": _slack,
    "smtplib.SMTPRecipientsRefused": _smtp_recipients,
    "smtplib.SMTPResponseException": _smtp,
    "sqlalchemy.exc.StatementError": _sqlalchemy,
    "sqlite3.OperationalError": _sqlite,
    "urllib.error.HTTPError": _url_status,
    "urllib.error.URLError": _wrapped,
    "urllib3.exceptions.MaxRetryError": _wrapped,
    "urllib3.exceptions.ResponseError": _too_many_responses,
    "redis.exceptions.ResponseError": _redis,
    "urllib3.exceptions.SSLError": _tls,
}
