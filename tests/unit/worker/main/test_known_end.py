"""What a worker knows of the ends of its messages, and messages that come back while it runs them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery
from celery.exceptions import Reject
from celery.worker import state

from celery_guardrails.letters.header import HEADER
from celery_guardrails.worker.consumer.consumer import GuardedConsumer
from celery_guardrails.worker.main import redelivery, takeover
from celery_guardrails.worker.main.ended import Ended
from celery_guardrails.worker.main.request import GuardedRequest
from celery_guardrails.worker.main.seen import Copy
from tests.unit.traced import Gate, received

SENT = {HEADER: {"v": 1, "published_at": 1_764_000_000.5, "work": "abc"}}
OTHER = {HEADER: {"v": 1, "published_at": 1_764_000_000.5, "work": "another"}}


@pytest.fixture(autouse=True)
def _nothing_here() -> Iterator[None]:
    yield
    state.reserved_requests.clear()
    state.active_requests.clear()
    state.requests.clear()


@pytest.fixture
def late(failing: Any) -> Any:
    failing.acks_late = True
    return failing


def here(task: Any) -> GuardedRequest:
    """A request whose task the pool has."""
    request = received(task, headers=SENT)
    request._apply_result = object()
    state.task_reserved(request)
    return request


def again(request: GuardedRequest) -> GuardedRequest:
    """The same message as its broker delivers it again."""
    other = received(request.task, headers=request.message.headers)
    other._delivery_info["redelivered"] = True
    return other


def answers(request: GuardedRequest) -> list[str]:
    """What the broker is told about this request's message."""
    found: list[str] = []
    request._on_ack = lambda *_: found.append("ack")
    request._on_reject = lambda _, __, requeue: found.append(f"reject {requeue}")
    return found


def is_over(request: GuardedRequest) -> bool:
    return request.known.has(Copy.of(request))


def test_what_is_acknowledged_late_is_over(app: Celery, late: Any) -> None:
    request = received(late, headers=SENT)
    assert not is_over(request)
    request.acknowledge()
    assert is_over(again(request))
    assert not is_over(received(late, headers=SENT))
    assert not is_over(again(received(late, headers={**request.message.headers, "retries": 1})))


@pytest.mark.parametrize("requeue", [True, False])
def test_what_is_given_back_is_not_over(app: Celery, late: Any, requeue: bool) -> None:
    request = received(late, headers=SENT)
    request.reject(requeue=requeue)
    assert is_over(request) is not requeue


def test_what_the_task_puts_back_is_not_over(app: Celery, gate: Gate, late: Any) -> None:
    request = received(late, headers=SENT)
    try:
        raise Reject("another worker, please", requeue=True)
    except Reject:
        request.on_failure(ExceptionInfo())
    assert request.acknowledged
    assert len(gate.sent) == 1
    assert not is_over(request)


def test_what_runs_at_most_once_is_not_over_when_it_is_acknowledged(app: Celery, late: Any) -> None:
    late.acks_late = False
    request = received(late, headers=SENT)
    request.acknowledge()
    assert not is_over(request)


def test_where_nobody_says_when_it_was_sent_nothing_is_known(app: Celery, late: Any) -> None:
    request = received(late)
    request.acknowledge()
    assert not is_over(again(request))


def test_what_is_remembered_is_bounded(late: Any) -> None:
    ended, requests = Ended(latest=3, most=4), [received(late, headers=SENT) for _ in range(7)]
    for request in requests[:4]:
        ended.note(request)
    assert [ended.has(Copy.of(each)) for each in requests] == [False, True, True, True, False, False, False]
    for request in requests[4:]:
        ended.note(request)
    assert [ended.has(Copy.of(each)) for each in requests] == [False, False, False, True, True, True, True]


def test_what_a_sender_adds_to_its_message_is_not_kept(late: Any) -> None:
    class Baggage: ...

    ended, baggage = Ended(), Baggage()
    left, request = weakref.ref(baggage), received(late, headers={**SENT, "baggage": baggage})
    copy = Copy.of(request)
    ended.note(request)
    del request, baggage
    gc.collect()
    assert left() is None
    assert ended.has(copy)


def test_a_header_that_is_nested_is_read(late: Any) -> None:
    ended, request = Ended(), received(late, headers={"headers": {**SENT, "sentry-trace": "1"}})
    ended.note(request)
    assert ended.has(Copy.of(request)) is Copy.of(request).life.work.is_lasting


def taken_over(first: GuardedRequest, noted: Any = bool) -> tuple[GuardedRequest, list[str], list[str]]:
    """The message comes back while `first` runs; gives its request, and what both messages' brokers are told."""
    old, second = answers(first), again(first)
    new = answers(second)
    second.message.channel = object()
    state.task_reserved(second)
    other = takeover.find_running(second, Copy.of(second))
    assert other is first
    takeover.take_over(second, other, noted)
    return second, old, new


needs_results = pytest.mark.skipif(
    not takeover.RESULTS_AFTER_LOSS, reason="this Celery does not get the results of such tasks"
)


@needs_results
def test_a_run_acknowledges_the_message_that_came_back(late: Any) -> None:
    first = here(late)
    second, old, new = taken_over(first)
    assert (first.message, state.requests[first.id]) == (second.message, first)
    assert second not in state.reserved_requests
    assert (old, new) == ([], [])
    first.acknowledge()
    first._on_ack()
    assert (old, new) == ([], ["ack"])


@needs_results
def test_a_run_gives_back_the_message_that_came_back(late: Any) -> None:
    first = here(late)
    _, old, new = taken_over(first)
    first.reject(requeue=True)
    assert (old, new) == ([], ["reject True"])


@needs_results
def test_a_message_that_comes_back_twice_is_answered_by_the_newest(late: Any) -> None:
    first = here(late)
    _, _, one = taken_over(first)
    third = again(first)
    third.message.channel, two = object(), answers(third)
    takeover.take_over(third, first, bool)
    first.acknowledge()
    assert (one, two) == ([], ["ack"])


@needs_results
def test_a_run_that_ends_just_then_leaves_nothing_unanswered(late: Any) -> None:
    first = here(late)
    second, old, new = taken_over(first, lambda: True)
    assert (old, new) == ([], ["ack"])
    first.acknowledge()
    assert (old, new) == ([], ["ack"])
    assert second.id not in state.requests


@needs_results
def test_both_messages_are_acknowledged_where_both_are_there(late: Any) -> None:
    first = here(late)
    old, second = answers(first), again(first)
    new = answers(second)
    marks: list[str] = []
    first.unmark = lambda: marks.append("gone")
    takeover.take_over(second, first, bool)  # on one channel, which is not closed
    first.acknowledge()
    assert (old, new, marks) == (["ack"], ["ack"], ["gone"])


@pytest.mark.parametrize("why", ["acknowledged", "_already_cancelled", "_already_revoked"])
def test_what_has_ended_takes_over_nothing(late: Any, why: str) -> None:
    first = here(late)
    setattr(first, why, True)
    second = again(first)
    assert takeover.find_running(second, Copy.of(second)) is None


@pytest.mark.parametrize("why", ["early", "not in the pool"])
def test_of_whose_end_nobody_hears_takes_over_nothing(late: Any, why: str) -> None:
    first = here(late)
    late.acks_late = why != "early"
    if why != "early":
        first._apply_result = None
    second = again(first)
    assert takeover.find_running(second, Copy.of(second)) is None


@needs_results
def test_what_runs_in_the_workers_own_process_goes_on(late: Any) -> None:
    first = here(late)
    first._apply_result = None
    state.active_requests.add(first)
    second = again(first)
    assert takeover.find_running(second, Copy.of(second)) is first


@needs_results
@pytest.mark.parametrize(("how", "told"), [("given back", "reject True"), ("sent again", "ack")])
def test_a_run_that_has_just_let_its_message_go_leaves_nothing_unanswered(late: Any, how: str, told: str) -> None:
    first = here(late)
    second = again(first)
    second.message.channel, new = object(), answers(second)

    def meanwhile(*_: Any) -> None:  # in a thread of the pool, which has asked for the old message's answer
        takeover.take_over(second, first, bool)

    first._on_ack = first._on_reject = meanwhile
    state.task_ready(first)  # as Celery does first
    if how == "given back":
        first.reject(requeue=True)
    else:
        first.let_go()
    assert new == [told]
    assert first not in state.reserved_requests


def test_what_runs_here_killed_nobody_where_nothing_names_its_work(late: Any) -> None:
    first = received(late)
    state.active_requests.add(first)
    assert redelivery._still_runs(again(first))
    assert not redelivery._still_runs(again(received(late)))


def test_what_differs_takes_over_nothing(late: Any) -> None:
    first = here(late)
    for changed in ({"retries": 1}, OTHER, {HEADER: {"v": 1}}):
        other = again(received(late, headers={**first.message.headers, **changed}))
        assert takeover.find_running(other, Copy.of(other)) is None


def test_what_waits_in_a_pool_is_still_here_after_a_lost_connection(late: Any) -> None:
    waiting, done, refused = (here(late) for _ in range(3))
    done.acknowledge()
    refused._apply_result = None

    class Consumer:
        def on_close(self) -> None:
            state.reserved_requests.clear()

    consumer: Any = type("Guarded", (GuardedConsumer, Consumer), {"goes_on": True})()
    consumer.on_close()
    assert list(state.reserved_requests) == [waiting]


def test_the_prefetch_count_is_restored_by_the_main_thread() -> None:
    import threading

    done: list[Any] = []
    later: list[Any] = []

    class Consumer:
        def _restore_prefetch_count_after_connection_restart(self, *args: Any) -> None:
            done.append(args)

        def call_soon(self, call: Any, *args: Any) -> None:
            later.append((call, args))

    consumer: Any = type("Guarded", (GuardedConsumer, Consumer), {"goes_on": True})()
    consumer._restore_prefetch_count_after_connection_restart(1)
    assert (done, later) == ([(1,)], [])
    thread = threading.Thread(target=consumer._restore_prefetch_count_after_connection_restart, args=(2,))
    thread.start()
    thread.join()
    assert done == [(1,)]
    call, args = later.pop()
    call(*args)
    assert done == [(1,), (2,)]


def test_a_requests_copy_is_worked_out_once(app: Celery, late: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    request = received(late, headers=SENT)
    expected = Copy.of(request)
    asked = list[Any]()
    whole = Copy.of
    monkeypatch.setattr(Copy, "of", lambda *given: (asked.append(given), whole(*given))[1])
    assert [request.received_copy, request.received_copy] == [expected, expected]
    redelivery.note_retry(request)
    assert len(asked) == 1
