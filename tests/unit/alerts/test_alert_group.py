"""What a group counts, and that it stays small."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.alerts.event import AlertEvent
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.letters.record import Letter, LetterFailure, OriginalMessage
from celery_guardrails.policy.decision import Reason
from celery_guardrails.policy.failure import Category

T0 = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
EVENT = AlertEvent(
    ref_id="d1",
    environment="production",
    task="shop.Task",
    at=T0,
    error="TimeoutError",
    message="timed out",
    fingerprint="v1:a",
    reason="attempts_exhausted",
    category="timeout",
    letter_id="l1",
)


def count(*events: AlertEvent) -> AlertGroup:
    group = AlertGroup.idle(EVENT)
    for event in events:
        group = group.add(event, T0)
    return group


def test_errors_are_counted_by_fingerprint_and_bounded():
    group = count(*(replace(EVENT, fingerprint=f"v1:{n % 80}", message=str(n)) for n in range(160)))
    assert group.total == 160
    assert len(group.errors) == 50
    assert group.other_errors == 60
    assert group.errors["v1:3"].count == 2
    assert group.errors["v1:3"].message == "83"


def test_affected_values_are_distinct_and_bounded():
    group = count(*(replace(EVENT, affected={"user": f"u{n % 25}", "shop": "s"}) for n in range(100)))
    assert len(group.affected["user"].values) == 20
    assert group.affected["user"].more
    assert group.affected["shop"].values == ("s",)
    assert not group.affected["shop"].more
    many = count(*(replace(EVENT, affected={f"name{n}": "x" * 1000}) for n in range(30)))
    assert len(many.affected) == 10
    assert all(len(value) == 100 for who in many.affected.values() for value in who.values)


def test_a_message_of_many_items_counts_each_of_its_values():
    first = replace(EVENT, affected={"user": ("u1", "u2")})
    group = count(first, replace(EVENT, affected={"user": ("u2", "u3")}), replace(EVENT, affected={"user": "u4"}))
    assert group.affected["user"].values == ("u1", "u2", "u3", "u4")
    assert not group.affected["user"].more
    chunk = count(replace(EVENT, affected={"user": tuple(f"u{n}" for n in range(100))}))
    assert len(chunk.affected["user"].values) == 20
    assert chunk.affected["user"].more
    assert AlertEvent.from_payload(first.as_payload()) == first


def test_the_last_three_samples_are_kept():
    group = count(*(replace(EVENT, letter_id=f"l{n}", correlation={"order_id": str(n)}) for n in range(9)))
    assert [sample.letter_id for sample in group.samples] == ["l6", "l7", "l8"]
    assert group.samples[-1].correlation == {"order_id": "8"}
    again = group.add(replace(EVENT, letter_id="l7", correlation={"order_id": "new"}), EVENT.at)
    assert [sample.letter_id for sample in again.samples] == ["l6", "l8", "l7"], "each letter once"
    assert again.samples[-1].correlation == {"order_id": "new"}


@pytest.mark.parametrize(
    ("severities", "worst"),
    [(["warning"], "warning"), (["error", "critical", "info"], "critical"), (["info", "house-made"], "house-made")],
)
def test_the_worst_severity_stays(severities, worst):
    group = count(*(replace(EVENT, severity=severity) for severity in severities))
    assert group.severity == worst
    assert group.critical is (worst == "critical")


def test_first_and_last_do_not_depend_on_the_order():
    early, late = replace(EVENT, at=T0 - timedelta(hours=1)), replace(EVENT, at=T0 + timedelta(hours=1))
    for order in ((early, EVENT, late), (late, EVENT, early)):
        group = count(*order)
        assert (group.first_at, group.last_at) == (early.at, late.at)


def test_who_and_what_keeps_the_last_known():
    group = count(replace(EVENT, owner="a", runbook="r", queue="q", version="1"), EVENT)
    assert (group.owner, group.runbook, group.queue, group.version) == ("a", "r", "q", "1")


def test_an_event_is_made_from_a_letter():
    letter = Letter(
        id="death-2",
        dead_letter_id="origin",
        task="shop.Task",
        task_id="t",
        reason=Reason.PERMANENT_ERROR,
        failure=LetterFailure(
            type="KeyError", message="'a'\n  b " + "x" * 900, category=Category.BUG, fingerprint="v1:b"
        ),
        environment="production",
        queue="q",
        first_failed_at=T0,
        died_at=T0,
        affected={"user": "u"},
        correlation={"order": "1"},
        owner="shop",
        message=OriginalMessage(body=b"e30="),
    )
    event = AlertEvent.from_letter(letter)
    assert (event.ref_id, event.letter_id, event.reason, event.category) == (
        "death-2",
        "origin",
        "permanent_error",
        "bug",
    )
    assert event.message.startswith("'a' b xxx")
    assert len(event.message) == 500
    assert AlertEvent.from_payload(event.as_payload()) == event
    with pytest.raises(ValueError, match="ref_id"):
        AlertEvent.from_payload({})


@given(
    st.lists(
        st.builds(
            lambda f, a: replace(EVENT, fingerprint=f, affected=a), st.text(), st.dictionaries(st.text(), st.text())
        )
    )
)
def test_a_group_survives_its_payload(events):
    group = count(*events)
    assert AlertGroup.from_payload(group.as_payload()) == group
    assert group.other_errors + sum(error.count for error in group.errors.values()) == len(events)
