"""The header by which a publish of a guarded task says which work it is, and where it is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore

from celery_guardrails.letters.header import HEADER, Header, read_header
from celery_guardrails.letters.record import letter_id
from celery_guardrails.policy.decision import DeadLetter, Reason
from celery_guardrails.worker.failure.failed_run import examine
from celery_guardrails.worker.failure.letter import brief_letter, capture
from celery_guardrails.worker.failure.original import original_of
from celery_guardrails.worker.failure.work import work_of
from tests.unit.traced import Gate, trace

LETTER = "d1d1d1d1-0000-4000-8000-000000000001"


def published(app: Celery) -> Any:
    """The header of the message that has just been published."""
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("unit.tasks").get(timeout=5)
        message.ack()
    return message.headers[HEADER]


def test_each_publish_is_work_of_its_own_even_under_one_task_id(app: Celery, failing: Any) -> None:
    found = []
    for _ in range(3):
        failing.apply_async(task_id="bill-ada")
        found.append(published(app))
    assert len({header["work"] for header in found}) == 3
    assert all(header["given"] is True for header in found)


@pytest.mark.parametrize(
    ("send", "given"),
    [
        (lambda task: task.delay(), False),
        (lambda task: task.s().apply_async(), False),
        (lambda task: task.apply_async((), {}, None), False),
        (lambda task: task.apply_async((), {}, "t-1"), True),
        (lambda task: task.apply_async(task_id="t-1", countdown=0.001), True),
        (lambda task: task.apply_async(task_id="t-1", headers={"x": 1}), True),
        (lambda task: (task.si() | task.si()).apply_async(), True),
    ],
)
def test_the_header_says_whether_somebody_chose_the_id(app: Celery, failing: Any, send: Any, given: bool) -> None:
    send(failing)
    header = published(app)
    assert header.get("given", False) is given
    assert header["work"]


def test_what_hands_its_headers_on_does_not_hand_on_which_work_it_is(app: Celery, failing: Any) -> None:
    own = Header(work="own").encode()
    failing.apply_async(headers={HEADER: own})
    assert published(app)["work"] != "own"
    failing.apply_async(headers={HEADER: own}, retries=1, task_id="t-1")
    assert published(app) == own


@pytest.mark.parametrize(("extra", "same"), [({}, False), ({"retries": 2}, True)])
def test_only_the_next_attempt_is_the_same_work(app: Celery, quick: Any, extra: dict[str, Any], same: bool) -> None:
    """`signature_from_request` is how Celery's own retry is made; people use it to send themselves once more."""

    @quick(app, bind=True)
    def sender(self: Any) -> None:
        self.signature_from_request(**extra).apply_async()

    trace(sender, headers={HEADER: Header(work="own").encode(), "retries": 1})
    assert (published(app)["work"] == "own") is same


def test_a_retry_that_has_lost_its_header_on_the_way_gets_it_back(app: Celery, quick: Any) -> None:
    """Sentry nests headers, and Celery then shows a task the nested ones only."""
    header = Header(work="own").encode()

    @quick(app, bind=True)
    def sender(self: Any) -> None:
        assert HEADER not in self.request.headers
        self.signature_from_request(retries=1).apply_async()

    trace(sender, headers={HEADER: header, "headers": {"sentry-trace": "x"}})
    assert published(app) == header


@pytest.mark.parametrize("header", [None, Header(work="abc").encode()])
def test_every_letter_of_one_death_has_one_id(app: Celery, quick: Any, header: Any) -> None:
    """The full one, the brief one, and that of the retry which never came to be."""
    ids: list[Any] = []

    @quick(app, bind=True)
    def dying(self: Any) -> None:
        request, exc = self.request, ConnectionError("down")
        decision = DeadLetter(Reason.WORKER_LOST, "died")
        original = original_of(request)
        assert original is not None
        ids.extend(capture(examine(self, request, exc), decision).id for _ in range(2))
        ids.append(brief_letter(self, request, original, exc, decision).id)
        ids.append(letter_id(work_of(request.__dict__), 1, 0, Reason.WORKER_LOST))

    trace(dying, headers={HEADER: header} if header else {})
    assert len(ids) == 4
    assert len(set(ids)) == 1


def test_a_retry_writes_down_which_work_it_is(app: Celery, gate: Gate, quick: Any) -> None:
    works: list[Any] = []

    @quick(app, bind=True)
    def failing(self: Any) -> None:
        works.append(work_of(self.request.__dict__))
        raise ConnectionError("down")

    trace(failing)
    (envelope,) = gate.retries
    header = read_header(envelope.headers)
    assert (header.work, header.id_given) == (works[0].publish, True)
    trace(failing, headers={**envelope.headers})
    assert works[1].publish == works[0].publish


def recovered(gate: Gate) -> list[tuple[str, int]]:
    """The recoveries that were reported."""
    reports = [json.loads(envelope.body) for envelope in gate.sent if not envelope.headers.get("task")]
    return [(report["dead_letter_id"], report["generation"]) for report in reports if "at" in report]


def _requeued(generation: int = 1) -> dict[str, Any]:
    return {HEADER: Header(dead_letter_id=LETTER, generation=generation, work="abc").encode()}


@pytest.mark.parametrize("kind", ["replace", "ignore", "expected"])
def test_requeued_work_that_ends_as_its_task_meant_it_to_has_recovered(
    app: Celery, gate: Gate, quick: Any, kind: str
) -> None:
    @quick(app, name="unit.replacement")
    def replacement() -> None: ...

    @quick(app, bind=True, throws=(LookupError,))
    def ending(self: Any) -> None:
        if kind == "replace":
            raise self.replace(replacement.s())
        raise Ignore() if kind == "ignore" else KeyError("expected")

    trace(ending, headers=_requeued())
    assert recovered(gate) == [(LETTER, 1)]
    if kind == "replace":
        header = published(app)
        assert header["work"] != "abc"
        assert "dead_letter_id" not in header
        assert header["given"] is True


def test_requeued_work_that_goes_on_has_not_recovered(app: Celery, gate: Gate, quick: Any) -> None:
    @quick(app, bind=True, max_attempts=3)
    def going_on(self: Any, end: str) -> None:
        self.retry(throw=False)
        if end == "ignore":
            raise Ignore()

    for end in ("ignore", "return"):
        trace(going_on, end, headers=_requeued())
    assert len(gate.retries) == 2
    assert recovered(gate) == []
