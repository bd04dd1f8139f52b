from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.pool import RUN, TERMINATE

from celery_guardrails.worker.pool import acknowledge_at_once, before_writing, keep_taken


class Request:
    """A worker's request, of which `ack` acknowledges the message."""

    name, id, acknowledged = "shop.mail", "t-1", False

    def __init__(self, ack: Any) -> None:
        self.given_back: list[bool] = []
        self.message = SimpleNamespace(ack=ack, acknowledged=False, reject=self.reject)

    def reject(self, requeue: bool) -> None:
        self.given_back.append(requeue)

    def acknowledge(self) -> None:
        self.acknowledged = True


def taken(request: Request) -> Any:
    """A job with that request, in a pool that is about to write it."""

    def writer() -> None: ...

    job = SimpleNamespace(_payload=(1, 2, 3), _writer=lambda: writer, discard=lambda: setattr(job, "gone", True))
    job.pool = SimpleNamespace(_active_writers={writer})
    before_writing(SimpleNamespace(_pool=job.pool), job, request, lambda: acknowledge_at_once(request))
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
    assert request.given_back == [True]


def test_what_a_closed_pool_did_not_take_stays_unacknowledged():
    before_writing(SimpleNamespace(_pool=None), None, Request(failing(ValueError("never"))), lambda: None)


def test_a_pool_that_is_terminated_or_has_nothing_acknowledged_is_flushed_celerys_way():
    flushed = []
    job = SimpleNamespace(guarded=SimpleNamespace(acknowledged=True), ready=lambda: False)
    for cache, state in (({1: job}, TERMINATE), ({1: SimpleNamespace()}, RUN)):
        keep_taken(SimpleNamespace(_cache=cache, _state=state, outbound_buffer=deque()), lambda: flushed.append(1))()
    assert flushed == [1, 1]
