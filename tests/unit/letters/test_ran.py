"""Which work may have run already, and that letters of before the field are judged alike."""

from __future__ import annotations

import json

import pytest

from celery_guardrails.letters.codec import decode, encode
from celery_guardrails.letters.ran import may_have_run, why_may_have_run
from celery_guardrails.policy.decision import Reason
from tests.unit.cli.deaths import dead

ALWAYS = {Reason.WORKER_LOST, Reason.RESULT_UNSTORABLE, Reason.CANCELLED}
NEVER = {Reason.EXPIRED, Reason.UNKNOWN_TASK, Reason.UNDECODABLE}


@pytest.mark.parametrize("reason", Reason)
def test_the_rule(reason: Reason) -> None:
    assert may_have_run(reason, late=True) is (reason in ALWAYS)
    assert may_have_run(reason, late=False) is (reason not in NEVER)
    assert may_have_run(reason, late=True, in_doubt=True)
    assert why_may_have_run(reason.value)


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("acks", ["late", "early", None])
def test_a_letter_of_before_the_field_is_judged_by_reason_and_policy(reason: Reason, acks: str | None) -> None:
    raw = json.loads(encode(dead(1, reason=reason, policy={"acks": acks} if acks else {})))
    del raw["may_have_run"]
    assert raw["v"] == 1
    assert decode(json.dumps(raw)).may_have_run is may_have_run(reason, late=acks != "early")


def test_what_a_letter_says_stands() -> None:
    for says in (True, False):
        for reason in Reason:
            assert decode(encode(dead(1, reason=reason, may_have_run=says))).may_have_run is says


def test_what_is_no_letter_is_refused_as_ever() -> None:
    for raw in ({"reason": "own"}, {"reason": 7}, {"policy": []}, {}):
        with pytest.raises(ValueError, match=r"Field required|Input should be"):
            decode(json.dumps({"v": 1, **raw}))
