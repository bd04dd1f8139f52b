"""What is done about trouble, as data."""

from __future__ import annotations

import pickle
import random
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.alerts.intent import Kind
from celery_guardrails.alerts.trouble import Circuit, backoff, look_remedy, remedy
from celery_guardrails.errors import Trouble, Undelivered
from celery_guardrails.store.outbox import OutboxRow

T0 = datetime(2026, 3, 1, tzinfo=timezone.utc)
ROW = OutboxRow("k", 1, "post", 0, "opened", T0, T0)
RNG = random.Random(3)


def cure(trouble: Trouble, action: Kind = Kind.POST, row: OutboxRow = ROW, now: datetime = T0, **more):
    return remedy(row, action, Undelivered(trouble, "why", more.get("after")), now, RNG, more.get("fallback"))


@pytest.mark.parametrize(
    ("trouble", "action", "status"),
    [
        (Trouble.UNAVAILABLE, Kind.POST, "pending"),
        (Trouble.UNCERTAIN, Kind.POST, "unknown"),
        (Trouble.UNCERTAIN, Kind.REPLY, "unknown"),
        (Trouble.UNCERTAIN, Kind.EDIT, "pending"),
        (Trouble.RATE_LIMITED, Kind.POST, "pending"),
        (Trouble.AUTH, Kind.POST, "pending"),
        (Trouble.CHANNEL, Kind.POST, "pending"),
        (Trouble.CHANNEL, Kind.EDIT, "failed"),
        (Trouble.GONE, Kind.POST, "failed"),
        (Trouble.GONE, Kind.EDIT, "pending"),
        (Trouble.TOO_BIG, Kind.POST, "pending"),
        (Trouble.REFUSED, Kind.POST, "failed"),
    ],
)
def test_the_table(trouble, action, status):
    found = cure(trouble, action)
    assert found.status == status
    assert found.fall is (status == "failed" or trouble is Trouble.CHANNEL)
    assert found.rest is (trouble in (Trouble.UNAVAILABLE, Trouble.UNCERTAIN))
    assert found.open_circuit is (trouble is Trouble.AUTH)


@pytest.mark.parametrize(("after", "wait"), [(None, 30), (0, 1), (17.5, 17.5)])
def test_a_pause_is_what_the_sink_asks_for_and_no_attempt(after, wait):
    for found in (
        cure(Trouble.RATE_LIMITED, after=after),
        look_remedy(ROW, Undelivered(Trouble.RATE_LIMITED, "", after), T0, RNG),
    ):
        assert found.pause == found.changes["next_try_at"] == T0 + timedelta(seconds=wait)
        assert "attempts" not in found.changes


def test_a_fallback_channel_is_tried_once():
    first = cure(Trouble.CHANNEL, fallback="#ops")
    assert first.changes["notes"] == {"channel": "#ops", "because": "why", "repost": True}
    again = OutboxRow("k", 1, "post", 0, "opened", T0, T0, notes=first.changes["notes"])
    second = cure(Trouble.CHANNEL, row=again, fallback="#ops")
    assert second.fall
    # somebody may open the alert's own channel: it is tried again, and then the fallback channel
    assert second.changes["notes"] == {}
    assert second.changes["next_try_at"] == T0 + timedelta(minutes=15)


def test_a_channel_that_stays_closed_is_given_up_after_a_week():
    assert cure(Trouble.CHANNEL, now=T0 + timedelta(days=7, seconds=1)).status == "failed"


def test_plain_text_is_tried_once():
    again = OutboxRow("k", 1, "post", 0, "opened", T0, T0, notes=cure(Trouble.TOO_BIG).changes["notes"])
    assert cure(Trouble.TOO_BIG, row=again).status == "failed"


@pytest.mark.parametrize("trouble", [Trouble.UNAVAILABLE, Trouble.UNCERTAIN])
def test_after_a_week_it_is_given_up(trouble):
    late = T0 + timedelta(days=7, seconds=1)
    assert cure(trouble, now=late).status == "failed"
    assert look_remedy(ROW, Undelivered(trouble, "x"), late, RNG).status == "failed"


def test_what_cannot_be_looked_for_is_sent_again_and_marked():
    found = look_remedy(ROW, Undelivered(Trouble.REFUSED, "missing_scope"), T0, RNG)
    assert (found.status, found.changes["notes"]) == ("pending", {"duplicate": True})
    assert look_remedy(ROW, Undelivered(Trouble.AUTH, "x"), T0, RNG).open_circuit
    assert look_remedy(ROW, Undelivered(Trouble.UNCERTAIN, "x"), T0, RNG).status == "unknown"


@given(st.integers(0, 10_000), st.randoms())
def test_waits_keep_their_bounds(attempts, rng):
    assert timedelta(seconds=1) <= backoff(attempts, rng) <= timedelta(seconds=300)


def test_a_circuit_is_probed_after_one_minute_and_at_most_five():
    circuit = Circuit()
    assert not circuit.is_open
    waits = []
    for _ in range(5):
        circuit.open(T0)
        assert circuit.is_open
        waits.append((circuit.probe_at - T0) / timedelta(minutes=1))
        circuit.close()  # a webhook's check always succeeds: only a message that it takes counts
        assert not circuit.is_open
    assert waits == [1, 2, 4, 5, 5]
    circuit.reset()
    circuit.open(T0)
    assert circuit.probe_at == T0 + timedelta(minutes=1)


def test_trouble_survives_a_pickle():
    error = pickle.loads(pickle.dumps(Undelivered(Trouble.RATE_LIMITED, "ratelimited", 3.0)))
    assert (error.trouble, error.reason, error.retry_after, error.retryable) == (
        Trouble.RATE_LIMITED,
        "ratelimited",
        3.0,
        True,
    )
    assert str(error) == "ratelimited"
    assert not Undelivered(Trouble.AUTH, "x").retryable
