"""The check of Celery's private names: fine, a guard that is off, one that no worker starts without."""

from __future__ import annotations

import pytest

from celery_guardrails.cli.doctor.checks import seam
from celery_guardrails.cli.doctor.finding import Level
from celery_guardrails.seam import Missing
from celery_guardrails.seams import SEAMS
from tests.unit.cli.doctor.conftest import Offline, bad


def without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = [Missing(each, "is gone") for each in SEAMS if each.name.endswith(name)]
    assert gone
    monkeypatch.setattr(seam, "missing", lambda: gone)


def test_a_celery_that_has_them_all_is_fine(offline: Offline) -> None:
    (found,) = seam.seams(offline("redis"))
    assert (found.level, "has all" in found.found, "Celery 5." in found.found) == (Level.OK, True, True)


def test_a_guard_that_is_off_is_a_warning_in_doctor_and_in_check(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    without("TraceInfo.handle_retry", monkeypatch)
    ((name, found),) = bad(offline("redis"))
    assert (name, found.level) == ("seams", Level.WARNING)
    assert "failures outside the task's body: off" in found.found
    assert "celery.app.trace:TraceInfo.handle_retry is gone" in found.found
    assert "pip install" in found.fix


def test_what_no_worker_starts_without_is_a_fault(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    without("Request._on_ack", monkeypatch)
    (found,) = seam.seams(offline("redis"))
    assert found.level is Level.FAULT


def test_the_transport_of_redis_is_no_matter_on_rabbitmq(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    without("Channel._brpop_start", monkeypatch)
    assert [found.level for found in seam.seams(offline("redis"))] == [Level.WARNING]
    assert [found.level for found in seam.seams(offline("amqp"))] == [Level.OK]
