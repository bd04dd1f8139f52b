"""Ends that main meets, on requests as the worker has them, without a worker."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded
from celery import Celery

from celery_guardrails.worker import ending
from celery_guardrails.worker.settle import End
from tests.unit.worker.traced import Gate, received


def info(exc: BaseException) -> ExceptionInfo:
    try:
        raise exc
    except BaseException:  # noqa: BLE001 raised just above
        return ExceptionInfo()


@pytest.mark.parametrize("how", ["cancelled", "revoked", "cold", "succeeded"])
def test_a_time_limit_reported_after_another_end_makes_no_letter(
    app: Celery, gate: Gate, failing: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    request = received(failing)
    request._already_cancelled, request._already_revoked = how == "cancelled", how == "revoked"
    monkeypatch.setattr(ending, "is_ending_cold", lambda: how == "cold")
    monkeypatch.setattr(ending, "has_succeeded", lambda _: how == "succeeded")
    monkeypatch.setattr(ending, "_is_gone", lambda _: True)
    request.on_failure(info(TimeLimitExceeded(1)))
    request.on_timeout(False, 1)
    assert gate.letters == []
    assert request.ended is End.SETTLED
    assert request.acknowledged is (how == "succeeded")
