"""Ends that only the main process sees, on requests as the worker has them, without a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from billiard.pool import MaybeEncodingError
from celery import Celery
from celery.exceptions import Reject
from celery.worker import state

from celery_guardrails.errors import PublishError
from celery_guardrails.letters.header import HEADER, Header
from celery_guardrails.policy.decision import Reason
from celery_guardrails.worker.failure import outcome
from celery_guardrails.worker.main import ending, settlement
from celery_guardrails.worker.main.seen import Copy
from tests.unit.traced import Gate, received

LETTER = "d1d1d1d1-0000-4000-8000-000000000001"


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
    assert "could not be stored or reported" in caplog.text


def test_what_had_been_put_back_and_is_revoked_is_dead_again(app: Celery, gate: Gate, failing: Any) -> None:
    """Its letter waits for the end of this work: without one it would stay `requeued` for ever."""
    request = received(
        failing,
        headers={HEADER: Header(dead_letter_id=LETTER, generation=2, work="abc").encode()},
    )
    state.revoked.add(request.id)
    assert request.revoked()
    assert request.acknowledged
    (letter,) = gate.letters
    assert (letter.origin_id, letter.generation, letter.reason) == (
        LETTER,
        2,
        Reason.CANCELLED,
    )
    assert letter.attempts == ()
    assert request.revoked()
    assert len(gate.letters) == 1


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
    monkeypatch.setattr(settlement, "has_succeeded", lambda _: how == "succeeded")
    monkeypatch.setattr(ending, "_is_gone", lambda _: True)
    request.on_failure(info(TimeLimitExceeded(1)))
    request.on_timeout(False, 1)
    assert gate.letters == []
    assert request.settled
    assert request.acknowledged is (how == "succeeded")


def test_what_a_lost_connection_cancels_goes_back_where_nobody_can_be_told(
    app: Celery, gate: Gate, failing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing.acks_late = True
    request = received(failing, headers={HEADER: {"v": 1, "published_at": 1_764_000_000.5, "work": "cancelled"}})
    monkeypatch.setattr(app.backend, "mark_as_retry", unable)
    request._announce_cancelled()
    request.on_failure(info(Terminated(15)))  # its child was killed for that
    assert not request.acknowledged
    assert not request.known.has(Copy.of(request))
    assert gate.letters == []


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("ours")


class Future:
    """What a pool of threads makes of what waited when it is shut down."""

    @staticmethod
    def cancelled() -> bool:
        return True


ENDS: dict[str, Callable[[Any], object]] = {
    "worker_lost": lambda request: request.on_failure(info(WorkerLostError("killed"))),
    "time_limit": lambda request: (request.on_failure(info(TimeLimitExceeded(1))), request.on_timeout(False, 1)),
    "rejected": lambda request: request.on_failure(info(Reject("no", requeue=False))),
    "result_unstorable": lambda request: request.on_failure(info(MaybeEncodingError("a", "b"))),
    "expired": lambda request: request.revoked(),
    "cancelled": lambda request: (request.acknowledge(), request._announce_cancelled("cold")),
}


@pytest.mark.parametrize("place", [(outcome, "capture"), (settlement, "examine")], ids=["capture", "examine"])
@pytest.mark.parametrize("reason", ENDS)
def test_a_failure_of_ours_on_an_end_leaves_a_letter_in_brief(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], reason: str
) -> None:
    @quick(app, max_crashes=1, acks="early" if reason == "cancelled" else "late")
    def task(number: int) -> None: ...

    monkeypatch.setattr(*place, broken)
    monkeypatch.setattr(ending, "_is_gone", lambda _: False)
    request = received(task, 5, headers=PAST if reason == "expired" else None)
    ENDS[reason](request)
    (letter,) = gate.letters
    assert letter.reason.value == reason
    assert letter.explanation == "guardrails failed on its end: RuntimeError('ours')"
    assert (letter.task_id, letter.message.body) == (request.id, b"[[5], {}, {}]")
    assert request.acknowledged
    assert True not in request.rejected
    assert request.settled
    assert request.id not in state.revoked, "a requeue would be stopped"


def test_a_letter_in_brief_on_an_end_that_nobody_takes_leaves_the_message_where_it_is(
    app: Celery, gate: Gate, failing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "examine", broken)
    gate.closed.add("unit.dead")
    request = received(failing)
    request.on_failure(info(WorkerLostError("killed")))
    assert request.rejected == [True]


def test_where_not_even_a_letter_in_brief_can_be_made_an_end_goes_its_way(
    app: Celery, gate: Gate, failing: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settlement, "examine", broken)
    monkeypatch.setattr(outcome, "brief_letter", broken)
    request = received(failing)
    request.on_failure(info(MaybeEncodingError("a", "b")))
    assert gate.sent == []
    assert "gets no dead letter" in caplog.text
    assert app.AsyncResult(request.id).state == "FAILURE"


@pytest.mark.parametrize("place", [None, "examine"], ids=["refused", "ours"])
def test_work_at_most_once_that_had_not_begun_and_cannot_go_back_is_dead_lettered(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch, place: str | None
) -> None:
    @quick(app, acks="early")
    def task() -> None: ...

    gate.closed.add("unit.tasks")
    if place:
        monkeypatch.setattr(settlement, place, broken)
    request = received(task)
    request.acknowledge()
    ending.settle_unbegun(request, Future())  # type: ignore[arg-type]
    (letter,) = gate.letters
    assert (letter.reason.value, letter.attempts) == ("cancelled", ())
    assert "before the task began" in letter.failure.message


@pytest.mark.parametrize("early", [True, False])
def test_a_message_that_the_task_wants_back_and_cannot_go_is_not_lost(
    app: Celery, gate: Gate, quick: Any, early: bool
) -> None:
    @quick(app, acks="early" if early else "late")
    def task() -> None: ...

    gate.closed.add("unit.tasks")
    request = received(task)
    if early:
        request.acknowledge()
    request.on_failure(info(Reject("later", requeue=True)))
    assert [letter.reason.value for letter in gate.letters] == (["retry_unpublishable"] if early else [])
    assert request.rejected == ([] if early else [True])


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_what_a_task_says_of_its_rejection_shows_no_secret(
    app: Celery, gate: Gate, failing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    request = received(failing)
    request.on_failure(info(Reject("refused with password=hunter2xyz", requeue=False)))
    (letter,) = gate.letters
    assert letter.failure.message.startswith("refused with password=")
    assert "hunter2xyz" not in letter.failure.message + letter.explanation + caplog.text


def test_a_rejection_for_a_reason_that_cannot_be_shown_is_dead_lettered(app: Celery, gate: Gate, failing: Any) -> None:
    request = received(failing)
    request.on_failure(info(Reject(Unprintable(), requeue=False)))
    (letter,) = gate.letters
    assert letter.reason is Reason.REJECTED
    assert request.acknowledged


@pytest.mark.parametrize("steps", ["both", "the second"])
def test_a_hard_time_limit_makes_one_letter_in_one_step_or_in_two(
    app: Celery, gate: Gate, quick: Any, monkeypatch: pytest.MonkeyPatch, steps: str
) -> None:
    """The prefork pool reports it twice, gevent's once."""

    @quick(app, max_attempts=1, acks="late")
    def task() -> None: ...

    monkeypatch.setattr(ending, "_is_gone", lambda _: False)
    request = received(task)
    if steps == "both":
        request.on_failure(info(TimeLimitExceeded(1)))
        assert (len(gate.letters), request.acknowledged, request.settled) == (1, False, False)
    request.on_timeout(False, 1)
    assert [letter.reason.value for letter in gate.letters] == ["time_limit"]
    assert request.acknowledged
    assert request.settled
    assert app.AsyncResult(request.id).state == "FAILURE"
