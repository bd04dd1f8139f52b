from __future__ import annotations

import pickle
from collections import deque
from struct import unpack
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.pool import RUN, TASK, TERMINATE
from celery.exceptions import Ignore

from celery_guardrails.worker.main.prefork import acknowledge_at_once, call_before_writing, flush_untaken


class Request:
    """A worker's request, of which `ack` acknowledges the message."""

    name, id, acknowledged = "shop.mail", "t-1", False

    def __init__(self, ack: Any) -> None:
        self.message = SimpleNamespace(ack=ack, acknowledged=False, channel=None)

    def acknowledge(self) -> None:
        self.acknowledged = True


def taken(request: Request) -> Any:
    """A job with that request, in a pool that is about to write it."""

    def writer() -> None: ...

    job = SimpleNamespace(_payload=(1, 2, 3), _writer=lambda: writer, discard=lambda: setattr(job, "gone", True))
    job.pool = SimpleNamespace(_active_writers={writer})
    pool = SimpleNamespace(_pool=job.pool)
    call_before_writing(pool, job, request, lambda: acknowledge_at_once(request, pytest.fail))
    return job


def failing(exc: Exception) -> Any:
    def ack() -> None:
        raise exc

    return ack


def test_a_job_is_acknowledged_once_when_it_is_unpacked_to_be_written():
    acknowledged = []
    request = Request(lambda: acknowledged.append(1))
    job = taken(request)
    assert acknowledged == []
    for _ in range(2):
        header, body, size = job._payload
        assert (header, body, size, acknowledged, request.acknowledged) == (1, 2, 3, [1], True)
    request.message.ack(multiple=False)  # Celery's own
    assert acknowledged == [1]


@pytest.mark.parametrize("exc", [ConnectionResetError("gone"), ValueError("a replica takes no acknowledgement")])
def test_a_job_that_could_not_be_acknowledged_is_not_written(exc):
    request = Request(failing(exc))
    job = taken(request)
    with pytest.raises(ConnectionError, match=str(exc)):
        tuple(job._payload)
    assert (job.gone, job.pool._active_writers, request.acknowledged) == (True, set(), False)


def test_a_job_that_is_not_to_run_is_passed_over_by_the_child():
    job = SimpleNamespace(_payload=(1, 2, 3), _job=5)
    call_before_writing(SimpleNamespace(_pool=None), job, Request(None), lambda: False)
    header, body, size = job._payload
    assert unpack(">I", header) == (size,) == (len(body),)
    kind, (number, _, function, args, kwargs) = pickle.loads(body)
    assert (kind, number, args, kwargs) == (TASK, 5, (), {})
    failed, info, _ = function()
    assert failed
    assert isinstance(info.exception.exc, Ignore)


def test_what_a_closed_pool_did_not_take_stays_unacknowledged():
    call_before_writing(SimpleNamespace(_pool=None), None, Request(failing(ValueError("never"))), lambda: True)


def test_a_pool_that_is_terminated_or_has_nothing_acknowledged_is_flushed_celerys_way():
    flushed = []
    job = SimpleNamespace(guarded=SimpleNamespace(acknowledged=True), ready=lambda: False)
    for cache, state in (({1: job}, TERMINATE), ({1: SimpleNamespace()}, RUN)):
        flush_untaken(SimpleNamespace(_cache=cache, _state=state, outbound_buffer=deque()), lambda: flushed.append(1))
    assert flushed == [1, 1]
