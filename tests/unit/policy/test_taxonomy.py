"""Every verdict is asked of the real exceptions of the installed libraries, so that a renamed class shows here."""

from __future__ import annotations

import email.message
import importlib
import io
import sqlite3
import ssl
import urllib.error

import amqp.exceptions
import billiard.exceptions
import botocore.exceptions
import celery.exceptions
import grpc
import grpc.aio
import httpx
import kombu.exceptions
import psycopg
import pytest
import redis
import requests
import slack_sdk.errors
import slack_sdk.web
import sqlalchemy.exc
import sqlalchemy.orm.exc
import urllib3
import urllib3.exceptions

from celery_guardrails.errors import PermanentError, TransientError
from celery_guardrails.policy.catalogue import CATALOGUE
from celery_guardrails.policy.dotted import dotted_name
from celery_guardrails.policy.taxonomy import classify


def verdict(exc):
    found = classify(exc)
    return found.category.value, found.transient


def requests_error(status):
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(response=response)


def httpx_error(status):
    request = httpx.Request("GET", "https://api.example")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def urllib_error(status):
    return urllib.error.HTTPError("https://api.example", status, "no", email.message.Message(), io.BytesIO())


def aws_error(status, code="Odd"):
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(answer, "PutObject")


def slack_error(status, error="odd"):
    response = slack_sdk.web.SlackResponse(
        client=None,
        http_verb="POST",
        api_url="x",
        req_args={},
        data={"ok": False, "error": error},
        headers={},
        status_code=status,
    )
    return slack_sdk.errors.SlackApiError("no", response)


TRANSIENT_STATUS = [408, 425, 429, 500, 502, 503, 504, 599]
PERMANENT_STATUS = [400, 401, 403, 404, 409, 410, 418, 422]


@pytest.mark.parametrize("make", [requests_error, httpx_error, urllib_error, aws_error, slack_error])
@pytest.mark.parametrize("status", TRANSIENT_STATUS + PERMANENT_STATUS)
def test_http_status(make, status):
    error = make(status)
    assert classify(error).transient is (status in TRANSIENT_STATUS)
    getattr(error, "close", lambda: None)()


@pytest.mark.parametrize(
    ("status", "category"),
    [(401, "auth"), (403, "auth"), (404, "not_found"), (408, "timeout"), (422, "validation"), (429, "rate_limit"),
     (503, "server_error"), (504, "timeout")],
)  # fmt: skip
def test_http_category(status, category):
    assert classify(requests_error(status)).category.value == category


def test_a_status_that_is_no_error_says_nothing():
    assert verdict(requests_error(200)) == ("unknown", None)
    assert verdict(httpx_error(302)) == ("unknown", None)


def test_any_error_that_carries_a_response_is_read():
    class ApiError(Exception):
        def __init__(self, response):
            self.response = response

    assert verdict(ApiError(urllib3.HTTPResponse(status=503))) == ("server_error", True)
    assert verdict(ApiError(None)) == ("unknown", None)
    assert verdict(ApiError({"status": 503})) == ("unknown", None)


def max_retries(reason):
    return urllib3.exceptions.MaxRetryError(urllib3.HTTPConnectionPool("api.example"), "/", reason)


def dbapi(orig, invalidated=False):
    return sqlalchemy.exc.OperationalError("SELECT 1", {}, orig, connection_invalidated=invalidated)


def certificate():
    return ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        # requests, urllib3, httpx
        (requests.ConnectionError(), ("connection", True)),
        (requests.ConnectTimeout(), ("timeout", True)),
        (requests.ReadTimeout(), ("timeout", True)),
        (requests.exceptions.ChunkedEncodingError(), ("connection", True)),
        (requests.exceptions.RetryError(), ("server_error", True)),
        (requests.exceptions.SSLError(max_retries(urllib3.exceptions.SSLError(certificate()))), ("connection", False)),
        (requests.exceptions.SSLError("UNEXPECTED_EOF_WHILE_READING"), ("connection", True)),
        (requests.exceptions.SSLError("odd"), ("connection", None)),
        (requests.exceptions.InvalidURL(), ("validation", False)),
        (requests.TooManyRedirects(response=requests.Response()), ("validation", False)),
        (requests.RequestException(), ("unknown", None)),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "late"), ("timeout", True)),
        (urllib3.exceptions.ProtocolError(), ("connection", True)),
        (max_retries(urllib3.exceptions.ConnectTimeoutError()), ("timeout", True)),
        (max_retries(urllib3.exceptions.ResponseError("too many 503 error responses")), ("server_error", True)),
        (max_retries(urllib3.exceptions.ResponseError("too many redirects")), ("unknown", None)),
        (max_retries(None), ("unknown", None)),
        (urllib3.exceptions.EmptyPoolError(None, "full"), ("resource", True)),
        (urllib3.exceptions.LocationParseError("x"), ("validation", False)),
        (httpx.ConnectTimeout("late"), ("timeout", True)),
        (httpx.PoolTimeout("late"), ("timeout", True)),
        (httpx.ConnectError("refused"), ("connection", True)),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]"), ("connection", False)),
        (httpx.ReadError("reset"), ("connection", True)),
        (httpx.RemoteProtocolError("no"), ("connection", True)),
        (httpx.LocalProtocolError("no"), ("bug", False)),
        (httpx.InvalidURL("no"), ("validation", False)),
        (httpx.DecodingError("no"), ("unknown", None)),
        # botocore, slack_sdk, grpc
        (aws_error(400, "ThrottlingException"), ("rate_limit", True)),
        (aws_error(400, "RequestTimeout"), ("timeout", True)),
        (aws_error(400, "AccessDeniedException"), ("auth", False)),
        (aws_error(0), ("unknown", None)),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="x"), ("connection", True)),
        (botocore.exceptions.ConnectTimeoutError(endpoint_url="x"), ("timeout", True)),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="x"), ("timeout", True)),
        (botocore.exceptions.ConnectionClosedError(endpoint_url="x"), ("connection", True)),
        (botocore.exceptions.SSLError(endpoint_url="x", error=certificate()), ("connection", False)),
        (botocore.exceptions.NoCredentialsError(), ("auth", False)),
        (botocore.exceptions.ParamValidationError(report="x"), ("validation", False)),
        (slack_error(200, "ratelimited"), ("rate_limit", True)),
        (slack_error(200, "invalid_auth"), ("auth", False)),
        (slack_error(200, "channel_not_found"), ("not_found", False)),
        (slack_error(200, "internal_error"), ("server_error", True)),
        (slack_error(200, "invalid_blocks"), ("validation", False)),
        (slack_error(200, ""), ("unknown", None)),
        (slack_sdk.errors.SlackApiError("no", {"ok": False, "error": "ratelimited"}), ("rate_limit", True)),
        (slack_sdk.errors.SlackApiError("no", None), ("unknown", None)),
        # psycopg, SQLAlchemy, redis
        (psycopg.errors.SerializationFailure(), ("lock", True)),
        (psycopg.errors.DeadlockDetected(), ("lock", True)),
        (psycopg.errors.LockNotAvailable(), ("lock", True)),
        (psycopg.errors.QueryCanceled(), ("timeout", True)),
        (psycopg.errors.AdminShutdown(), ("connection", True)),
        (psycopg.errors.TooManyConnections(), ("resource", True)),
        (psycopg.errors.DiskFull(), ("resource", None)),
        (psycopg.errors.UniqueViolation(), ("validation", False)),
        (psycopg.errors.UndefinedTable(), ("bug", False)),
        (psycopg.errors.InsufficientPrivilege(), ("auth", False)),
        (psycopg.errors.ConnectionTimeout(), ("timeout", True)),
        (psycopg.OperationalError("connection refused"), ("connection", True)),
        (psycopg.OperationalError("FATAL:  password authentication failed for user"), ("auth", False)),
        (psycopg.ProgrammingError(), ("bug", False)),
        (dbapi(psycopg.errors.DeadlockDetected()), ("lock", True)),
        (dbapi(sqlite3.OperationalError("database is locked")), ("lock", True)),
        (dbapi(Exception("odd")), ("unknown", None)),
        (dbapi(Exception("gone"), invalidated=True), ("connection", True)),
        (sqlalchemy.exc.IntegrityError("x", {}, sqlite3.IntegrityError()), ("validation", False)),
        (sqlalchemy.exc.TimeoutError(), ("timeout", True)),
        (sqlalchemy.exc.NoResultFound(), ("not_found", False)),
        (sqlalchemy.orm.exc.StaleDataError(), ("lock", True)),
        (redis.ConnectionError(), ("connection", True)),
        (redis.TimeoutError(), ("timeout", True)),
        (redis.BusyLoadingError(), ("server_error", True)),
        (redis.AuthenticationError(), ("auth", False)),
        (redis.exceptions.LockError(), ("lock", True)),
        (redis.ReadOnlyError(), ("connection", True)),
        (redis.DataError(), ("validation", False)),
        (redis.ResponseError(), ("unknown", None)),
        (redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'."), ("resource", True)),
        (redis.ResponseError("NOREPLICAS Not enough good replicas to write."), ("server_error", True)),
        (redis.ResponseError("BUSYGROUP Consumer Group name already exists"), ("unknown", None)),
        # Celery and its transports
        (celery.exceptions.SoftTimeLimitExceeded(), ("timeout", True)),
        (billiard.exceptions.WorkerLostError(), ("worker_lost", True)),
        (celery.exceptions.TimeoutError(), ("timeout", True)),
        (kombu.exceptions.OperationalError(), ("connection", True)),
        (kombu.exceptions.EncodeError(), ("validation", False)),
        (amqp.exceptions.ConnectionForced(), ("connection", True)),
        (amqp.exceptions.NotFound(), ("not_found", False)),
        (amqp.exceptions.AccessRefused(), ("auth", False)),
        (amqp.exceptions.ResourceLocked(), ("lock", True)),
        (amqp.exceptions.PreconditionFailed(), ("validation", False)),
        # ours
        (TransientError("later"), ("unknown", True)),
        (PermanentError("never"), ("unknown", False)),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}"[:60] if isinstance(value, BaseException) else None,
)
def test_verdict(exc, expected):
    assert verdict(exc) == expected


@pytest.mark.parametrize("status", list(grpc.StatusCode), ids=lambda status: status.name)
def test_every_grpc_status_is_known(status):
    error = grpc.aio.AioRpcError(status, grpc.aio.Metadata(), grpc.aio.Metadata())
    transient = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"}
    assert (classify(error).transient is True) == (status.name in transient)


def test_a_subclass_is_what_its_nearest_known_base_is():
    class Refused(requests.ConnectionError):
        pass

    class OurTimeout(TimeoutError, ValueError):
        pass

    class Refusal(PermanentError, requests.ConnectionError):
        pass

    assert verdict(Refused()) == ("connection", True)
    assert verdict(OurTimeout()) == ("timeout", True)
    assert verdict(Refusal()) == ("unknown", False)


def test_what_the_task_says_is_stronger_than_a_code():
    class Rejected(PermanentError):
        response = urllib3.HTTPResponse(status=503)

    assert verdict(Rejected()) == ("unknown", False)


def test_errors_that_wrap_each_other_for_ever_end():
    inner, outer = urllib.error.URLError("x"), urllib.error.URLError("y")
    inner.reason, outer.reason = outer, inner
    assert verdict(outer) == ("unknown", None)


ELSEWHERE = {"MySQLdb", "aiohttp", "asyncpg", "django", "elastic_transport", "elasticsearch", "mysql", "opensearchpy",
             "psycopg2", "pymongo", "pymysql"}  # fmt: skip
"""Libraries that need not be installed here; their names were looked up in their releases of 2026."""


NEWER = {"redis.exceptions.OutOfMemoryError"}
"""Classes that the oldest versions that `setup.cfg` allows do not have."""


@pytest.mark.parametrize("path", sorted(CATALOGUE))
def test_every_listed_name_is_how_a_real_class_knows_itself(path):
    module, _, name = path.rpartition(".")
    module = {"": "builtins"}.get(module, module)
    if module.partition(".")[0] in ELSEWHERE:
        pytest.importorskip(module)
    found = getattr(importlib.import_module(module), name, None)
    if found is None and path in NEWER:
        pytest.skip(f"{path} came with a later version than the one here")
    if found is None:
        pytest.fail(f"{path} does not exist")
    aliases = {"ftplib", "pickle"}
    assert dotted_name(found) == path or module in aliases or dotted_name(found) in CATALOGUE
