"""What the log says of a Redis that the keeper cannot reach: one line for all that it does, and none of its code."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from celery_guardrails.transport.redis import keeping
from celery_guardrails.transport.redis.held import Custody
from celery_guardrails.transport.redis.keeper import Keeper


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    app = Celery("unit", broker="redis://127.0.0.1:1/0", set_as_current=False)
    yield Keeper(app, Custody(lambda *_: True))
    app.close()


def fail(keeper: Keeper, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def once(_act: Any) -> float:
        raise error

    monkeypatch.setattr(keeper._line, "once", once)
    for duty in (keeping.lease, keeping.restore, keeping.hand_on):
        assert keeper._do(duty) == 1.0
        assert keeper._do(duty) == 1.0


def test_a_server_that_is_away_is_said_once_without_a_traceback(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "celery_guardrails.transport")
    fail(keeper, OperationalError("Error 111 connecting to\nlocalhost:1. Connection refused."), monkeypatch)
    (record,) = caplog.records
    assert record.getMessage() == (
        "Redis does not answer, and is asked again: Error 111 connecting to localhost:1. Connection refused"
    )
    assert "Traceback" not in caplog.text


def test_any_other_error_is_said_in_full_for_each_thing(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "celery_guardrails.transport")
    fail(keeper, KeyError("a defect"), monkeypatch)
    for name in ("lease", "restore", "hand_on"):
        assert caplog.text.count(f"Redis could not be asked ({name}), and is asked again") == 1
    assert caplog.text.count("KeyError: 'a defect'") == 3
