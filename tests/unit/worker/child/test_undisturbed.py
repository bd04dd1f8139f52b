"""Soft time limits, sent as signals to this very process while a hook is at work."""

from __future__ import annotations

import signal
import threading

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler

from celery_guardrails.worker.child import soft_limit as module
from celery_guardrails.worker.child.soft_limit import call_undisturbed
from tests.unit.worker.child.conftest import limit

pytestmark = pytest.mark.usefixtures("pool_process")


def test_a_soft_time_limit_does_not_cut_a_hook_short() -> None:
    def act() -> str:
        limit()
        limit()
        return "done"

    assert call_undisturbed(act) == "done"
    with pytest.raises(SoftTimeLimitExceeded):
        limit()


def test_one_that_comes_an_instant_before_does_not_keep_it_from_being_done_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_come, called = module._may_come, []

    def just_before() -> bool:
        if not called:
            called.append("asked")
            limit()
        return may_come()

    monkeypatch.setattr(module, "_may_come", just_before)
    assert call_undisturbed(lambda: called.append("done")) is None
    assert called == ["asked", "done"]


def test_what_fails_fails_and_the_limit_is_back() -> None:
    with pytest.raises(ZeroDivisionError):
        call_undisturbed(lambda: 1 // 0)
    assert signal.getsignal(SIG_SOFT_TIMEOUT) is soft_timeout_sighandler


def test_elsewhere_nothing_is_changed() -> None:
    found: list[object] = []
    thread = threading.Thread(
        target=lambda: found.append(call_undisturbed(lambda: signal.getsignal(SIG_SOFT_TIMEOUT))), daemon=True
    )
    thread.start()
    thread.join()
    assert found == [soft_timeout_sighandler]
    signal.signal(SIG_SOFT_TIMEOUT, signal.SIG_DFL)
    assert call_undisturbed(lambda: signal.getsignal(SIG_SOFT_TIMEOUT)) is signal.SIG_DFL
