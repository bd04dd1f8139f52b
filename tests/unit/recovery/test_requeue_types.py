"""What recovery says when it refuses."""

from __future__ import annotations

import pickle

from celery_guardrails.errors import ReasonRequired


def test_a_missing_reason_survives_a_pickle_round_trip() -> None:
    error = pickle.loads(pickle.dumps(ReasonRequired("discard")))
    assert (error.action, str(error)) == ("discard", "discard: a reason is required, it goes into the audit trail")
