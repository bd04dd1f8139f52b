"""Ends that main meets, on requests as the worker has them, without a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded
from celery import Celery
from celery.exceptions import Reject
from celery.worker import state

from celery_guardrails.errors import PublishError
from celery_guardrails.worker import ending
from celery_guardrails.worker.settle import End
from tests.unit.worker.traced import Gate, received


def info(exc: BaseException) -> ExceptionInfo:
    try:
        raise exc
    except BaseException:  # noqa: BLE001 raised just above
        return ExceptionInfo()


@pytest.fixture(autouse=True)
def _nothing_revoked() -> Iterator[None]:
    yield
    state.revoked.clear()


def unable(*_: Any, **__: Any) -> Any:
    raise ConnectionError("no result backend")


@pytest.mark.parametrize("late", [True, False])
def test_what_is_revoked_is_acknowledged_whatever_the_backend_says(
    app: Celery, gate: Gate, failing: Any, monkeypatch: pytest.MonkeyPatch, late: bool, caplog: Any
) -> None:
    failing.acks_late = late
    monkeypatch.setattr(app.backend, "mark_as_revoked", unable)
    request = received(failing)
    state.revoked.add(request.id)
    assert request.revoked()
    assert request.acknowledged
    assert gate.letters == []
    assert "could not be told to everybody" in caplog.text


PAST = {"expires": "2020-01-01T00:00:00+00:00"}


def test_what_is_revoked_and_too_late_stays_revoked_and_makes_no_letter(app: Celery, gate: Gate, failing: Any) -> None:
    request = received(failing, headers=PAST)
    state.revoked.add(request.id)
    assert request.revoked()
    assert request.acknowledged
    assert gate.letters == []
    assert request.id in state.revoked


@pytest.mark.parametrize("how", ["kept", "dropped", "off"])
def test_only_what_makes_a_letter_is_taken_from_the_revoked_ones(
    new_app: Callable[..., Celery], quick: Any, how: str
) -> None:
    app = new_app({"enabled": how != "off", "dead_letter": {"queue": "unit.dead"}})
    gate = Gate(app)

    @quick(app, on_expired="drop" if how == "dropped" else "dead_letter")
    def task() -> None: ...

    request = received(task, headers=PAST)
    assert request.revoked()
    assert request.acknowledged
    assert len(gate.letters) == (1 if how == "kept" else 0)
    assert (request.id in state.revoked) is (how != "kept")


def test_what_has_expired_may_be_dropped_though_the_backend_is_down(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @quick(app, on_expired="drop")
    def task() -> None: ...

    monkeypatch.setattr(app.backend, "mark_as_revoked", unable)
    request = received(task, headers=PAST)
    assert request.revoked()
    assert request.acknowledged
    assert gate.letters == []


@pytest.mark.parametrize("how", ["late", "early", "cancelled", "revoked"])
def test_a_killed_greenlet_ends_as_whoever_killed_it_meant(app: Celery, gate: Gate, failing: Any, how: str) -> None:
    failing.acks_late = how == "late"
    request = received(failing)
    request._already_revoked, request._already_cancelled = how == "revoked", how == "cancelled"
    if how != "late":
        request.acknowledge()
    killed = Reject(PublishError("its queue", "it was killed while it ran"), requeue=True)
    request.on_failure(info(killed), return_ok=True)
    assert request.rejected == ([True] if how == "late" else [])
    assert [letter.reason.value for letter in gate.letters] == (["cancelled"] if how == "early" else [])


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
