"""What a guardian logs once, and what it must log although it has logged of the same group before."""

from __future__ import annotations

import logging

import pytest

from celery_guardrails.alerts.complaint import Complaints

logger = logging.getLogger("celery_guardrails.alerts")


def test_the_same_warning_is_logged_once_for_each_key(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(logger)
    for key in ("prod/A", "prod/A", "prod/B"):
        complaints.once(key, "the alert of %s is shown in brief", key)
    assert [record.getMessage() for record in caplog.records] == [
        "the alert of prod/A is shown in brief",
        "the alert of prod/B is shown in brief",
    ]


def test_another_warning_of_the_same_key_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(logger)
    complaints.once("prod/A", "the alert of %s is shown in brief", "prod/A")
    complaints.once("prod/A", "an alert of %s is given up", "prod/A")
    assert [record.getMessage() for record in caplog.records][1:] == ["an alert of prod/A is given up"]


def test_the_oldest_are_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(logger)
    for number in (*range(1001), 0, 1000):
        complaints.once(str(number), "%s", number)
    assert len(caplog.records) == 1002
