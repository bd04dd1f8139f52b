"""What error codes mean: those of HTTP, SMTP, gRPC, SQL, MongoDB, Redis, errno, AWS and Slack.

Pure tables and functions from a code to a verdict, `None` where a code says nothing. It must not look at exceptions.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from celery_guardrails.policy.catalogue import Verdict
from celery_guardrails.policy.failure import Category

__all__ = [
    "of_aws",
    "of_errno",
    "of_grpc",
    "of_http",
    "of_mongo",
    "of_mysql",
    "of_redis",
    "of_slack",
    "of_smtp",
    "of_sqlstate",
]

_RATE_LIMIT = Verdict(Category.RATE_LIMIT, True)
_SERVER_ERROR = Verdict(Category.SERVER_ERROR, True)
_TIMEOUT = Verdict(Category.TIMEOUT, True)
_CONNECTION = Verdict(Category.CONNECTION, True)
_LOCK = Verdict(Category.LOCK, True)
_RESOURCE = Verdict(Category.RESOURCE, True)
_AUTH = Verdict(Category.AUTH, False)
_NOT_FOUND = Verdict(Category.NOT_FOUND, False)
_VALIDATION = Verdict(Category.VALIDATION, False)
_BUG = Verdict(Category.BUG, False)

_HTTP = {
    401: _AUTH,
    403: _AUTH,
    404: _NOT_FOUND,
    407: _AUTH,
    408: _TIMEOUT,
    410: _NOT_FOUND,
    425: _SERVER_ERROR,
    429: _RATE_LIMIT,
    504: _TIMEOUT,
}

_SMTP_AUTH = frozenset({530, 534, 535, 538})
_SMTP_NOT_FOUND = frozenset({550, 551})

_GRPC = {
    "CANCELLED": Verdict(Category.UNKNOWN, None),
    "UNKNOWN": Verdict(Category.SERVER_ERROR, None),
    "INVALID_ARGUMENT": _VALIDATION,
    "DEADLINE_EXCEEDED": _TIMEOUT,
    "NOT_FOUND": _NOT_FOUND,
    "ALREADY_EXISTS": _VALIDATION,
    "PERMISSION_DENIED": _AUTH,
    "RESOURCE_EXHAUSTED": _RATE_LIMIT,
    "FAILED_PRECONDITION": _VALIDATION,
    "ABORTED": _LOCK,
    "OUT_OF_RANGE": _VALIDATION,
    "UNIMPLEMENTED": _BUG,
    "INTERNAL": Verdict(Category.SERVER_ERROR, None),
    "UNAVAILABLE": _CONNECTION,
    "DATA_LOSS": Verdict(Category.SERVER_ERROR, False),
    "UNAUTHENTICATED": _AUTH,
}

_SQLSTATE = {
    "40001": _LOCK,  # serialization_failure
    "40P01": _LOCK,  # deadlock_detected
    "55P03": _LOCK,  # lock_not_available
    "55006": _LOCK,  # object_in_use
    "57014": _TIMEOUT,  # query_canceled; its usual cause is statement_timeout
    "57P01": _CONNECTION,  # admin_shutdown
    "57P02": _CONNECTION,  # crash_shutdown
    "57P03": _CONNECTION,  # cannot_connect_now
    "57P05": _TIMEOUT,  # idle_session_timeout
    "25P03": _TIMEOUT,  # idle_in_transaction_session_timeout
    "25006": _CONNECTION,  # read_only_sql_transaction: a primary that became a standby
    "42501": _AUTH,  # insufficient_privilege
    "53100": Verdict(Category.RESOURCE, None),  # disk_full
}
_SQLSTATE_CLASS = {
    "08": _CONNECTION,
    "0A": _BUG,
    "22": _VALIDATION,
    "23": _VALIDATION,
    "25": _BUG,
    "26": _BUG,
    "28": _AUTH,
    "3D": _NOT_FOUND,
    "3F": _NOT_FOUND,
    "42": _BUG,
    "44": _VALIDATION,
    "53": _RESOURCE,
    "58": Verdict(Category.SERVER_ERROR, None),
    "P0": Verdict(Category.UNKNOWN, None),
    "XX": Verdict(Category.SERVER_ERROR, None),
}

_MYSQL_CODES: tuple[tuple[Verdict, str], ...] = (
    (_LOCK, "1205 1213 3572"),  # lock wait timeout, deadlock, NOWAIT
    (_TIMEOUT, "1317 1969 3024"),  # interrupted, max_statement_time, max_execution_time
    (_RESOURCE, "1040 1203 1226"),  # too many connections
    # shutting down, network trouble, a primary that became read-only, killed or idle connections
    (_CONNECTION, "1053 1079 1080 1158 1159 1160 1161 1184 1290 1792 1836 1927 4031"),
    (_AUTH, "1044 1045 1142 1143 1227 1698 2059"),
    (_NOT_FOUND, "1049"),
    (_VALIDATION, "1048 1062 1216 1217 1264 1364 1366 1406 1451 1452"),
    (_BUG, "1054 1064 1091 1136 1146 1305"),
    (Verdict(Category.RESOURCE, None), "1021 1037 1041 1114"),  # disk, memory or table full
)
"""By the numbers of MySQL's and MariaDB's error references."""
_MYSQL = {int(number): verdict for verdict, numbers in _MYSQL_CODES for number in numbers.split()}
_MYSQL_CLIENT = range(2000, 3000)
"""The client's own errors: it cannot reach the server, or the connection is lost."""

_REDIS = {
    "OOM": _RESOURCE,  # since redis-py 5 a class of its own
    "NOREPLICAS": _SERVER_ERROR,
    "MISCONF": _SERVER_ERROR,
    "BUSY": _SERVER_ERROR,
}
"""By the first word of Redis' answer, where redis-py has no class for it."""

_MONGO_CODES: tuple[tuple[Verdict, str], ...] = (
    # not reachable, not the primary any more, shutting down, stepping down
    (_CONNECTION, "6 7 89 91 189 9001 10107 11600 11602 13435 13436"),
    (_TIMEOUT, "50 64 262"),
    (_LOCK, "24 46 112 251"),  # locks, write conflicts, a transaction that is gone
    (_AUTH, "13 18 8000"),
    (_NOT_FOUND, "26"),
    (_VALIDATION, "2 9 121 11000 11001 12582"),
)
"""By MongoDB's `error_codes.yml`."""
_MONGO = {int(number): verdict for verdict, numbers in _MONGO_CODES for number in numbers.split()}

_ERRNO_NAMES: tuple[tuple[Verdict, str], ...] = (
    (_TIMEOUT, "ETIMEDOUT"),
    (
        _CONNECTION,
        "EADDRNOTAVAIL ECONNABORTED ECONNREFUSED ECONNRESET EHOSTDOWN EHOSTUNREACH ENETDOWN ENETRESET ENETUNREACH "
        "ENOTCONN EPIPE ESHUTDOWN ESTALE",
    ),
    (_LOCK, "EBUSY EDEADLK ENOLCK ETXTBSY"),
    (_RESOURCE, "EAGAIN EINTR EMFILE ENFILE ENOBUFS ENOMEM"),
    (Verdict(Category.RESOURCE, None), "EDQUOT ENOSPC"),
    (_AUTH, "EACCES EPERM EROFS"),
    (_NOT_FOUND, "ENOENT ENODEV ENXIO ESRCH"),
    (_VALIDATION, "E2BIG EEXIST EINVAL EISDIR ELOOP ENAMETOOLONG ENOTDIR ENOTEMPTY"),
    (_BUG, "EBADF EFAULT"),
)
_ERRNO: Mapping[int, Verdict] = {
    getattr(errno, name): verdict for verdict, names in _ERRNO_NAMES for name in names.split() if hasattr(errno, name)
}

# The codes that AWS's own SDKs retry: botocore/retries/standard.py, ThrottledRetryableChecker and its siblings.
_AWS_THROTTLED = frozenset(
    [
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottledException",
        "TooManyRequestsException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "LimitExceededException",
        "RequestThrottled",
        "SlowDown",
        "PriorRequestNotComplete",
        "EC2ThrottledException",
    ]
)
_AWS = {
    "RequestTimeout": _TIMEOUT,
    "RequestTimeoutException": _TIMEOUT,
    "TransactionInProgressException": _LOCK,
    "TransactionConflictException": _LOCK,
    "InternalError": _SERVER_ERROR,
    "InternalFailure": _SERVER_ERROR,
    "ServiceUnavailable": _SERVER_ERROR,
    "AccessDenied": _AUTH,
    "AccessDeniedException": _AUTH,
    "ExpiredToken": _AUTH,
    "ExpiredTokenException": _AUTH,
    "InvalidClientTokenId": _AUTH,
    "UnrecognizedClientException": _AUTH,
    "NoSuchBucket": _NOT_FOUND,
    "NoSuchKey": _NOT_FOUND,
    "ResourceNotFoundException": _NOT_FOUND,
}

_SLACK = {
    **dict.fromkeys(["ratelimited", "rate_limited", "message_limit_exceeded"], _RATE_LIMIT),
    **dict.fromkeys(["internal_error", "fatal_error", "service_unavailable", "team_added_to_org"], _SERVER_ERROR),
    "request_timeout": _TIMEOUT,
    **dict.fromkeys(
        [
            "invalid_auth",
            "not_authed",
            "token_revoked",
            "token_expired",
            "account_inactive",
            "missing_scope",
            "no_permission",
            "not_allowed_token_type",
            "access_denied",
        ],
        _AUTH,
    ),
    **dict.fromkeys(
        ["channel_not_found", "is_archived", "not_in_channel", "user_not_found", "message_not_found"], _NOT_FOUND
    ),
}


def of_http(status: int) -> Verdict | None:
    """An HTTP status: 408, 425, 429 and 5xx are transient, the other 4xx permanent; any other status says nothing."""
    if status in _HTTP:
        return _HTTP[status]
    if 500 <= status <= 599:
        return _SERVER_ERROR
    return _VALIDATION if 400 <= status <= 499 else None


def of_smtp(code: int) -> Verdict | None:
    """An SMTP reply code (RFC 5321, 4.2.1): 4yz is transient, 5yz permanent."""
    if 400 <= code <= 499:
        return Verdict(Category.AUTH, True) if code == 454 else _SERVER_ERROR
    if 500 <= code <= 599:
        return _AUTH if code in _SMTP_AUTH else _NOT_FOUND if code in _SMTP_NOT_FOUND else _VALIDATION
    return None


def of_grpc(name: str) -> Verdict | None:
    """The name of a gRPC status code; grpc's `statuscodes.md` says which ones are worth another attempt."""
    return _GRPC.get(name)


def of_sqlstate(state: str) -> Verdict | None:
    """An SQLSTATE (PostgreSQL's appendix A); where the whole code is not listed, its first two characters decide."""
    return _SQLSTATE.get(state) or _SQLSTATE_CLASS.get(state[:2])


def of_mysql(number: int) -> Verdict | None:
    """An error number of MySQL or MariaDB, or of their clients."""
    return _MYSQL.get(number) or (_CONNECTION if number in _MYSQL_CLIENT else None)


def of_mongo(number: int) -> Verdict | None:
    """An error code of MongoDB."""
    return _MONGO.get(number)


def of_errno(number: int) -> Verdict | None:
    """An operating system's error number."""
    return _ERRNO.get(number)


def of_aws(code: str) -> Verdict | None:
    """An AWS error code; most codes are not listed, because the HTTP status beside them says as much."""
    return _RATE_LIMIT if code in _AWS_THROTTLED else _AWS.get(code)


def of_redis(text: str) -> Verdict | None:
    """Redis' answer, by its first word."""
    return _REDIS.get(text.partition(" ")[0])


def of_slack(error: str) -> Verdict | None:
    """Slack's error word; a word that is not listed means that the request itself is wrong."""
    return _SLACK.get(error, _VALIDATION) if error else None
