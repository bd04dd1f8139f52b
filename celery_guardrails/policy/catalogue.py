"""What exception classes mean, by dotted path: those of the standard library and of the libraries that tasks use.

Data only. A class that is not listed counts as its nearest listed base class. It must not import any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from celery_guardrails.policy.failure import Category

__all__ = ["CATALOGUE", "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failure is; `transient` says whether another attempt may succeed, `None` where nobody knows."""

    category: Category
    transient: bool | None


_OURS = {
    "celery_guardrails.errors": {
        "unknown yes": "TransientError",
        "unknown no": "PermanentError",
    },
}

_STANDARD_LIBRARY = {
    "": {
        "timeout yes": "TimeoutError",
        "connection yes": "ConnectionError",
        "auth no": "PermissionError",
        "not_found no": "FileNotFoundError ProcessLookupError",
        "resource yes": "BlockingIOError InterruptedError",
        "resource unknown": "MemoryError",
        "validation no": "ValueError FileExistsError IsADirectoryError NotADirectoryError",
        "bug no": "ArithmeticError AssertionError AttributeError BufferError ImportError LookupError NameError "
        "NotImplementedError RecursionError ReferenceError StopAsyncIteration StopIteration SyntaxError TypeError "
        "UnboundLocalError Warning SystemExit GeneratorExit KeyboardInterrupt",
    },
    "asyncio.exceptions": {"timeout yes": "TimeoutError", "connection yes": "IncompleteReadError"},
    "concurrent.futures._base": {"timeout yes": "TimeoutError"},
    "decimal": {"validation no": "InvalidOperation"},
    "ftplib": {"server_error yes": "error_temp", "validation no": "error_perm"},
    "http.client": {
        "connection yes": "BadStatusLine IncompleteRead",
        "validation no": "InvalidURL UnknownProtocol",
        "bug no": "ImproperConnectionState",
    },
    "_pickle": {"validation no": "PickleError UnpicklingError PicklingError"},
    "pickle": {"validation no": "PickleError UnpicklingError PicklingError"},
    "smtplib": {
        "connection yes": "SMTPServerDisconnected SMTPConnectError",
        "auth no": "SMTPAuthenticationError",
        "validation no": "SMTPNotSupportedError",
    },
    "socket": {"connection yes": "gaierror herror"},
    "sqlite3": {
        "validation no": "DataError IntegrityError",
        "bug no": "ProgrammingError InterfaceError",
    },
    "ssl": {
        "connection yes": "SSLEOFError SSLZeroReturnError SSLSyscallError SSLWantReadError SSLWantWriteError",
        "connection no": "SSLCertVerificationError",
        "connection unknown": "SSLError",
    },
    "subprocess": {"timeout yes": "TimeoutExpired"},
}

_HTTP_CLIENTS = {
    "requests.exceptions": {
        "timeout yes": "Timeout ConnectTimeout",
        "connection yes": "ConnectionError ChunkedEncodingError",
        "connection unknown": "SSLError",
        "server_error yes": "RetryError",
        "validation no": "InvalidURL InvalidSchema MissingSchema InvalidHeader JSONDecodeError TooManyRedirects "
        "URLRequired",
        "bug no": "StreamConsumedError",
    },
    "urllib3.exceptions": {
        "timeout yes": "TimeoutError",
        "connection yes": "ProtocolError NewConnectionError ProxyError",
        "connection unknown": "SSLError",
        "resource yes": "EmptyPoolError",
        "validation no": "LocationValueError LocationParseError URLSchemeUnknown",
        "bug no": "ClosedPoolError HostChangedError",
    },
    "httpx": {
        "timeout yes": "TimeoutException",
        "connection yes": "NetworkError RemoteProtocolError ProxyError",
        "validation no": "UnsupportedProtocol TooManyRedirects InvalidURL",
        "bug no": "LocalProtocolError StreamError CookieConflict",
    },
    "aiohttp.client_exceptions": {
        "timeout yes": "ServerTimeoutError",
        "connection yes": "ClientConnectionError ClientPayloadError",
        "connection no": "ClientConnectorCertificateError ServerFingerprintMismatch",
        "connection unknown": "ClientSSLError",
        "validation no": "InvalidURL NonHttpUrlClientError TooManyRedirects ContentTypeError",
    },
    "slack_sdk.errors": {"validation no": "SlackObjectFormationError", "bug no": "SlackClientNotConnectedError"},
}

_CLOUD = {
    "botocore.exceptions": {
        "timeout yes": "ConnectTimeoutError ReadTimeoutError",
        "connection yes": "ConnectionError HTTPClientError IncompleteReadError ResponseStreamingError "
        "MetadataRetrievalError",
        "connection unknown": "SSLError",
        "auth no": "NoCredentialsError PartialCredentialsError ProfileNotFound NoAuthTokenError",
        "validation no": "ParamValidationError InvalidRegionError",
        "bug no": "NoRegionError UnknownServiceError DataNotFoundError OperationNotPageableError",
    },
}

_DATABASES = {
    "psycopg.errors": {"timeout yes": "ConnectionTimeout"},
    "psycopg": {
        "connection yes": "OperationalError",
        "validation no": "DataError IntegrityError",
        "bug no": "ProgrammingError InterfaceError NotSupportedError",
    },
    "psycopg2.extensions": {"lock yes": "TransactionRollbackError", "timeout yes": "QueryCanceledError"},
    "psycopg2": {
        "connection yes": "OperationalError",
        "validation no": "DataError IntegrityError",
        "bug no": "ProgrammingError InterfaceError NotSupportedError",
    },
    "asyncpg.exceptions._base": {
        "connection yes": "TargetServerAttributeNotMatched",
        "bug no": "ClientConfigurationError UnsupportedClientFeatureError UnsupportedServerFeatureError",
    },
    # Django's wrapper counts as the driver's error in it (see `taxonomy.py`); these are for a wrapper without one
    "django.db.utils": {
        "connection yes": "OperationalError",
        "validation no": "DataError IntegrityError",
        "bug no": "ProgrammingError NotSupportedError",
    },
    "sqlalchemy.exc": {
        "timeout yes": "TimeoutError",
        "connection yes": "DisconnectionError",
        "validation no": "DataError IntegrityError",
        "not_found no": "NoResultFound",
        "bug no": "ArgumentError CompileError InvalidRequestError ProgrammingError",
    },
    "sqlalchemy.orm.exc": {"lock yes": "StaleDataError", "not_found no": "ObjectDeletedError"},
    "redis.exceptions": {
        "timeout yes": "TimeoutError",
        "connection yes": "ConnectionError ReadOnlyError ClusterDownError MasterDownError AskError MovedError",
        "server_error yes": "BusyLoadingError TryAgainError",
        "lock yes": "LockError WatchError",
        "resource yes": "MaxConnectionsError OutOfMemoryError",
        "auth no": "AuthenticationError AuthenticationWrongNumberOfArgsError AuthorizationError NoPermissionError",
        "validation no": "DataError",
        "bug no": "NoScriptError",
    },
}

_MYSQL = {
    module: {
        "connection yes": "OperationalError InterfaceError",
        "validation no": "DataError IntegrityError",
        "bug no": "ProgrammingError NotSupportedError",
    }
    for module in ("MySQLdb", "MySQLdb._exceptions", "pymysql.err", "mysql.connector.errors")
}
_MYSQL["mysql.connector.errors"] |= {
    "timeout yes": "ConnectionTimeoutError ReadTimeoutError WriteTimeoutError",
    "resource yes": "PoolError",
}
"""mysqlclient (by its older and newer name), PyMySQL and aiomysql, MySQL's own connector."""

_DOCUMENTS = {
    "pymongo.errors": {
        "timeout yes": "NetworkTimeout ExecutionTimeout WTimeoutError WaitQueueTimeoutError",
        "connection yes": "ConnectionFailure",
        "validation no": "DuplicateKeyError DocumentTooLarge InvalidName CollectionInvalid",
        "bug no": "InvalidOperation ConfigurationError",
    },
    "elastic_transport": {
        "timeout yes": "ConnectionTimeout",
        "connection yes": "ConnectionError",
        "connection unknown": "TlsError",
        "validation no": "SerializationError",
    },
    **{
        module: {
            "timeout yes": "ConnectionTimeout",
            "connection yes": "ConnectionError",
            "connection unknown": "SSLError",
            "validation no": "SerializationError",
        }
        for module in ("elasticsearch.exceptions", "opensearchpy.exceptions")
    },
}
"""Elasticsearch up to 7 has classes of its own; since 8 they are those of `elastic_transport`."""

_MESSAGING = {
    "kombu.exceptions": {
        "connection yes": "OperationalError",
        "resource yes": "LimitExceeded",
        "validation no": "SerializationError ContentDisallowed",
        "bug no": "NotBoundError",
    },
    "amqp.exceptions": {
        "connection yes": "RecoverableConnectionError RecoverableChannelError ConnectionForced",
        "server_error yes": "InternalError MessageNacked",
        "lock yes": "ResourceLocked",
        "resource yes": "ResourceError",
        "auth no": "AccessRefused NotAllowed",
        "not_found no": "NotFound",
        "validation no": "ContentTooLarge PreconditionFailed InvalidCommand InvalidPath",
        "bug no": "AMQPNotImplementedError",
    },
    "billiard.exceptions": {
        "timeout yes": "SoftTimeLimitExceeded",
        "timeout unknown": "TimeLimitExceeded",
        "worker_lost yes": "WorkerLostError",
    },
    "celery.exceptions": {
        "timeout yes": "TimeoutError",
        "connection yes": "BackendError",
        "bug no": "ImproperlyConfigured NotRegistered",
    },
}

_TRANSIENT: Mapping[str, bool | None] = {"yes": True, "no": False, "unknown": None}


def _entries(*catalogues: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, Verdict]]:
    for catalogue in catalogues:
        for module, verdicts in catalogue.items():
            for verdict, names in verdicts.items():
                category, transient = verdict.split()
                for name in names.split():
                    path = f"{module}.{name}" if module else name
                    yield path, Verdict(Category(category), _TRANSIENT[transient])


CATALOGUE: Mapping[str, Verdict] = dict(
    _entries(_OURS, _STANDARD_LIBRARY, _HTTP_CLIENTS, _CLOUD, _DATABASES, _MYSQL, _DOCUMENTS, _MESSAGING)
)
"""Dotted path of a class -> what it means."""
