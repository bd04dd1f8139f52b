"""The verdicts on the standard library's exceptions, smtplib's among them, and on what is raised from nowhere known."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import http.client
import json
import smtplib
import socket
import sqlite3
import ssl
import subprocess
import urllib.error

import pydantic
import pytest

from celery_guardrails.policy.taxonomy import classify


def verdict(exc):
    found = classify(exc)
    return found.category.value, found.transient


def url_error(reason):
    return urllib.error.URLError(reason)


def certificate():
    return ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")


def with_errno(number):
    return OSError(number, "no")


class Nasty(Exception):
    @property
    def response(self):
        raise RuntimeError("no response")

    @property
    def sqlstate(self):
        raise RuntimeError("no state")


class Validated(pydantic.BaseModel):
    count: int


def validation_error():
    try:
        Validated(count="x")
    except pydantic.ValidationError as error:
        return error


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (TimeoutError(), ("timeout", True)),
        (asyncio.TimeoutError(), ("timeout", True)),
        (concurrent.futures.TimeoutError(), ("timeout", True)),
        (subprocess.TimeoutExpired("x", 1), ("timeout", True)),
        (ConnectionResetError(), ("connection", True)),
        (BrokenPipeError(), ("connection", True)),
        (http.client.RemoteDisconnected(), ("connection", True)),
        (http.client.IncompleteRead(b""), ("connection", True)),
        (http.client.InvalidURL(), ("validation", False)),
        (socket.gaierror(-3, "Temporary failure in name resolution"), ("connection", True)),
        (asyncio.IncompleteReadError(b"", 3), ("connection", True)),
        (with_errno(errno.ECONNREFUSED), ("connection", True)),
        (with_errno(errno.EHOSTUNREACH), ("connection", True)),
        (with_errno(errno.ETIMEDOUT), ("timeout", True)),
        (with_errno(errno.EMFILE), ("resource", True)),
        (with_errno(errno.ENOSPC), ("resource", None)),
        (with_errno(errno.ENOENT), ("not_found", False)),
        (with_errno(errno.EACCES), ("auth", False)),
        (with_errno(errno.EIO), ("unknown", None)),
        (OSError("odd"), ("unknown", None)),
        (certificate(), ("connection", False)),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), ("connection", None)),
        (ssl.SSLEOFError(8, "EOF occurred"), ("connection", True)),
        (MemoryError(), ("resource", None)),
        (TypeError(), ("bug", False)),
        (KeyError("x"), ("bug", False)),
        (AttributeError(), ("bug", False)),
        (ZeroDivisionError(), ("bug", False)),
        (NotImplementedError(), ("bug", False)),
        (RecursionError(), ("bug", False)),
        (ModuleNotFoundError(), ("bug", False)),
        (ValueError(), ("validation", False)),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "no"), ("validation", False)),
        (json.JSONDecodeError("no", "x", 0), ("validation", False)),
        (validation_error(), ("validation", False)),
        (RuntimeError(), ("unknown", None)),
        (Exception(), ("unknown", None)),
        (SystemExit(1), ("bug", False)),
        (Nasty(), ("unknown", None)),
        (sqlite3.OperationalError("database is locked"), ("lock", True)),
        (sqlite3.OperationalError("no such table: x"), ("bug", False)),
        (sqlite3.OperationalError("database or disk is full"), ("resource", None)),
        (sqlite3.OperationalError("disk I/O error"), ("unknown", None)),
        (sqlite3.IntegrityError(), ("validation", False)),
        (urllib.error.URLError("odd"), ("unknown", None)),
        (url_error(ConnectionRefusedError()), ("connection", True)),
        (url_error(certificate()), ("connection", False)),
        # smtplib
        (smtplib.SMTPDataError(451, b"later"), ("server_error", True)),
        (smtplib.SMTPDataError(552, b"too big"), ("validation", False)),
        (smtplib.SMTPAuthenticationError(535, b"no"), ("auth", False)),
        (smtplib.SMTPAuthenticationError(454, b"later"), ("auth", True)),
        (smtplib.SMTPSenderRefused(550, b"no", "a@b"), ("not_found", False)),
        (smtplib.SMTPConnectError(421, b"busy"), ("server_error", True)),
        (smtplib.SMTPConnectError(-1, b"odd"), ("connection", True)),
        (smtplib.SMTPServerDisconnected(), ("connection", True)),
        (smtplib.SMTPNotSupportedError(), ("validation", False)),
        (smtplib.SMTPRecipientsRefused({"a@b": (550, b"no"), "c@d": (450, b"later")}), ("server_error", True)),
        (smtplib.SMTPRecipientsRefused({"a@b": (550, b"no")}), ("not_found", False)),
        (smtplib.SMTPRecipientsRefused({}), ("unknown", None)),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}"[:60] if isinstance(value, BaseException) else None,
)
def test_verdict(exc, expected):
    assert verdict(exc) == expected
