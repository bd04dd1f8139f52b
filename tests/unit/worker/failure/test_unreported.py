"""A result backend that is away is logged in lines, other code's errors with their tracebacks."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from celery.exceptions import BackendStoreError

from celery_guardrails.worker.failure.unreported import OnceInFull, in_a_line, log_unreported


def away() -> BackendStoreError:
    try:
        try:
            raise ConnectionRefusedError("100 % refused\n\tIs the server running?")
        except ConnectionRefusedError as exc:
            raise BackendStoreError("failed to store") from exc
    except BackendStoreError as exc:
        return exc


def test_an_error_is_said_in_a_line_with_what_caused_it() -> None:
    said = in_a_line(away())
    assert said.endswith("failed to store, because of ConnectionRefusedError: 100 % refused Is the server running?")
    assert in_a_line(KeyError("k")) == "KeyError: 'k'"


@pytest.mark.parametrize(("exc", "full"), [(away(), False), (ConnectionError("away"), False), (KeyError("k"), True)])
def test_only_somebodys_code_gets_a_traceback(exc: Exception, full: bool, caplog: Any) -> None:
    log_unreported("the end", "shop.mail", "t-1", exc)
    (record,) = caplog.records
    assert bool(record.exc_text) is full
    assert "the end of shop.mail[t-1] could not be stored or reported" in record.message


def test_one_traceback_is_logged_for_a_while() -> None:
    heard: list[logging.LogRecord] = []
    noisy = logging.Logger("noisy")
    noisy.addFilter(OnceInFull())
    handler = logging.Handler()
    handler.emit = heard.append  # type: ignore[method-assign]
    noisy.addHandler(handler)
    for number in range(3):
        noisy.warning("try %s", number, exc_info=away())
    noisy.warning("no error")
    assert [bool(record.exc_info) for record in heard] == [True, False, False, False]
    assert heard[1].getMessage().startswith("try 1 celery.exceptions.BackendStoreError: failed to store, because of")
    assert heard[3].getMessage() == "no error"
