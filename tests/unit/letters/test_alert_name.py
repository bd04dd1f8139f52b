"""A worker knows an alert by the id that the guardian gives it."""

from __future__ import annotations

import pytest

from celery_guardrails.alerts.event import AlertEvent
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.letters.alert_name import alert_name
from celery_guardrails.policy.decision import Reason
from tests.unit.letters.test_codec import letter


@pytest.mark.parametrize("group_by", [("task",), ("task", "error")])
@pytest.mark.parametrize("task", ["shop.mail", "Odd name/with: ä%", "", "t" * 300])
@pytest.mark.parametrize("reason", [Reason.TIME_LIMIT, Reason.UNKNOWN_TASK])
def test_both_agree(group_by: tuple[str, ...], task: str, reason: Reason) -> None:
    found = letter(task=task, reason=reason)
    assert alert_name(found, group_by) == AlertGroup.idle(AlertEvent.from_letter(found), group_by).alert_id


@pytest.mark.parametrize("task", ["t" * 401, "ä" * 100, "a\0b", "\ud800"])
def test_a_name_that_the_archive_changes_has_none(task: str) -> None:
    assert alert_name(letter(task=task)) is None
