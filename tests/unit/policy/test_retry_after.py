from __future__ import annotations

import email.message
import io
import urllib.error
from datetime import datetime, timezone

import botocore.exceptions
import httpx
import pytest
import requests
import slack_sdk.errors
import slack_sdk.web
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.errors import TransientError
from celery_guardrails.policy.retry_after import parse_retry_after, retry_after

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("1.5", 1.5),
        (b"30", 30),
        (30, 30),
        ("0", 0),
        ("Sun, 22 Nov 2026 12:02:00 GMT", 120),
        ("Sun, 22 Nov 2026 12:02:00 -0000", 120),
        ("Sunday, 22-Nov-26 12:02:00 GMT", 120),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0),
        ("-5", None),
        (-5, None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("soon", None),
        ("Sun, 99 Nov 2026 12:02:00 GMT", None),
        (True, None),
        (None, None),
        ([], None),
    ],
)
def test_the_header(value, seconds):
    assert parse_retry_after(value, NOW) == seconds


@given(st.text() | st.binary() | st.floats() | st.integers())
def test_garbage_never_raises(value):
    found = parse_retry_after(value, NOW)
    assert found is None or found >= 0


def requests_error(value):
    response = requests.Response()
    response.status_code = 429
    response.headers["Retry-After"] = value
    return requests.HTTPError(response=response)


def httpx_error(value):
    request = httpx.Request("GET", "https://api.example")
    response = httpx.Response(503, headers={"retry-after": value}, request=request)
    return httpx.HTTPStatusError("no", request=request, response=response)


def urllib_error(value):
    headers = email.message.Message()
    headers["Retry-After"] = value
    return urllib.error.HTTPError("https://api.example", 503, "no", headers, io.BytesIO())


def urllib3_error(value):
    error = Exception("no")
    error.response = urllib3.HTTPResponse(status=429, headers={"Retry-After": value})
    return error


def aws_error(value):
    metadata = {"HTTPStatusCode": 503, "HTTPHeaders": {"retry-after": value}}
    return botocore.exceptions.ClientError({"Error": {}, "ResponseMetadata": metadata}, "PutObject")


def slack_error(value):
    response = slack_sdk.web.SlackResponse(
        client=None,
        http_verb="POST",
        api_url="x",
        req_args={},
        data={},
        headers={"Retry-After": value},
        status_code=429,
    )
    return slack_sdk.errors.SlackApiError("no", response)


def slack_error_of_lists(value):
    return slack_error([value])


def bytes_error(value):
    error = Exception("no")
    error.headers = {b"Retry-After": value.encode()}
    return error


@pytest.mark.parametrize(
    "make",
    [
        requests_error,
        httpx_error,
        urllib_error,
        urllib3_error,
        aws_error,
        slack_error,
        slack_error_of_lists,
        bytes_error,
    ],
)
@pytest.mark.parametrize(
    ("value", "seconds"), [("120", 120), ("Sun, 22 Nov 2026 12:02:00 GMT", 120), ("soon", None), ("-1", None)]
)
def test_each_library_s_error(make, value, seconds):
    error = make(value)
    assert retry_after(error, NOW) == seconds
    getattr(error, "close", lambda: None)()


def test_a_task_s_own_wish():
    assert retry_after(TransientError(retry_after=7), NOW) == 7
    assert retry_after(TransientError(retry_after=-7), NOW) is None
    assert retry_after(TransientError(), NOW) is None


def test_the_error_that_it_was_raised_from_is_asked_too():
    error = TransientError("busy")
    error.__cause__ = requests_error("9")
    assert retry_after(error, NOW) == 9
    error = TransientError("busy")
    error.__context__ = requests_error("9")
    assert retry_after(error, NOW) is None
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert retry_after(first, NOW) is None


class Nasty(Exception):
    @property
    def response(self):
        raise RuntimeError("no response")


class Odd(Exception):
    response = {"ResponseMetadata": {"HTTPHeaders": {"date": "today", 3: "x"}}}


class Headless(Exception):
    headers = 3


@pytest.mark.parametrize("error", [Nasty(), Odd(), Headless(), Exception(), KeyboardInterrupt()], ids=repr)
def test_an_error_without_a_readable_answer_asks_nothing(error):
    assert retry_after(error, NOW) is None
