"""A soft time limit that comes while guardrails deals with a failure: nothing is lost by it, and nothing done twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery

from celery_guardrails.worker.child import body, soft_limit
from celery_guardrails.worker.failure import outcome
from tests.unit.traced import Gate, trace
from tests.unit.worker.child.conftest import limit

pytestmark = pytest.mark.usefixtures("pool_process")


def limited(act: Callable[..., Any], times: int = 1) -> Callable[..., Any]:
    """The same, with a soft time limit that comes first."""
    left = [times]

    def limited(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            limit()
        return act(*args, **kwargs)

    return limited


@pytest.mark.parametrize("place", [(body, "is_plain"), (soft_limit, "_may_come"), (body, "call_undisturbed")])
@pytest.mark.parametrize("stage", [0, 1])
def test_it_is_no_failure_of_ours(
    gate: Gate, failing: Any, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], stage: int
) -> None:
    monkeypatch.setattr(*place, limited(getattr(*place)))
    traced = trace(failing, headers={"retries": stage})
    assert traced.info.state == ("FAILURE" if stage else "RETRY")
    assert (len(gate.retries), len(gate.letters)) == ((0, 1) if stage else (1, 0))
    assert isinstance(traced.info.retval if stage else traced.info.retval.exc, ConnectionError)


def test_after_the_act_is_done_it_is_not_done_again(gate: Gate, failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held_off = body.call_undisturbed

    def then(act: Callable[[], Any]) -> Any:
        held_off(act)
        limit()

    monkeypatch.setattr(body, "call_undisturbed", then)
    assert trace(failing).info.state == "RETRY"
    assert len(gate.retries) == 1


def test_a_retry_by_hand_is_published_once(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @quick(app, bind=True)
    def by_hand(self: Any) -> None:
        raise self.retry(exc=KeyError("not yet"), countdown=0)

    monkeypatch.setattr(outcome, "publish_retry", limited(outcome.publish_retry))
    assert trace(by_hand).info.state == "RETRY"
    assert (len(gate.retries), gate.letters) == (1, [])


@pytest.mark.parametrize("after", ["fails", "is_limited", "asks_again", "raises_retry"])
def test_an_attempt_that_has_asked_for_the_next_one_makes_no_second(
    app: Celery, gate: Gate, quick: Any, after: str
) -> None:
    @quick(app, bind=True)
    def twice(self: Any) -> None:
        asked = self.retry(exc=ConnectionError("not yet"), countdown=0, throw=False)
        if after == "is_limited":
            limit()
        if after == "asks_again":
            self.retry(exc=ConnectionError("not yet either"))
        raise asked if after == "raises_retry" else KeyError("a bug after it")

    traced = trace(twice)
    assert traced.info.state == "RETRY"
    assert (len(gate.retries), gate.letters) == (1, [])
    if after in ("fails", "is_limited"):
        kind = KeyError if after == "fails" else SoftTimeLimitExceeded
        assert isinstance(traced.info.retval.exc, kind)


def test_celerys_own_retry_counts_too(app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("ours")

    @quick(app, bind=True)
    def twice(self: Any) -> None:
        self.retry(exc=ConnectionError("not yet"), countdown=0, throw=False)
        raise KeyError("a bug after it")

    monkeypatch.setattr(outcome, "publish_retry", broken)
    assert trace(twice).info.state == "RETRY"
    assert (gate.retries, gate.letters) == ([], [])
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("unit.tasks")
        assert queue.get(timeout=5).headers["retries"] == 1
        assert queue.qsize() == 0
