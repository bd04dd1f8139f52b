from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.backends.base import DisabledBackend

from celery_guardrails.worker.failure.succeeded import Succeeded

NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)


def request(answer: Any, **changed: Any) -> Any:
    def get(task_id: str) -> Any:
        return answer() if callable(answer) else answer

    backend = SimpleNamespace(as_uri=lambda: "redis://", _get_task_meta_for=get)
    return SimpleNamespace(id="t-1", ignore_result=False, task=SimpleNamespace(backend=backend), **changed)


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"status": "SUCCESS", "date_done": (NOW + timedelta(seconds=1)).isoformat()}, True),
        ({"status": "SUCCESS", "date_done": (NOW + timedelta(seconds=1)).replace(tzinfo=None)}, True),
        ({"status": "SUCCESS", "date_done": (NOW - timedelta(seconds=1)).isoformat()}, False),
        ({"status": "SUCCESS", "date_done": None}, False),
        ({"status": "FAILURE", "date_done": (NOW + timedelta(seconds=1)).isoformat()}, False),
        ({"status": "PENDING"}, False),
        # by what the task published itself, under its own id
        ({"status": "SUCCESS", "date_done": (NOW + timedelta(seconds=1)).isoformat(), "parent_id": "t-1"}, False),
        ({"status": "SUCCESS", "date_done": (NOW + timedelta(seconds=1)).isoformat(), "parent_id": "p-1"}, True),
    ],
)
def test_only_a_success_of_this_life_counts(meta, expected):
    assert Succeeded()(request(meta), NOW) is expected


def test_a_backend_that_cannot_say_is_not_asked_for_a_while(caplog):
    asked = []

    def broken() -> Any:
        asked.append(1)
        raise ConnectionError("down")

    succeeded = Succeeded()
    assert not succeeded(request(broken), NOW)
    assert not succeeded(request(broken), NOW)
    assert len(asked) == 1
    assert "does not say" in caplog.text


def test_a_backend_that_hangs_holds_up_nobody():
    released = threading.Event()
    succeeded = Succeeded(patience=0.05)
    assert not succeeded(request(lambda: released.wait(30)), NOW)
    released.set()


def test_what_cannot_be_known_is_not_asked():
    meta = {"status": "SUCCESS", "date_done": (NOW + timedelta(seconds=1)).isoformat()}
    assert not Succeeded()(request(meta), None)
    assert not Succeeded()(SimpleNamespace(**{**vars(request(meta)), "ignore_result": True}), NOW)
    disabled = SimpleNamespace(
        id="t-1", ignore_result=False, task=SimpleNamespace(backend=DisabledBackend(app=Celery(set_as_current=False)))
    )
    assert not Succeeded()(disabled, NOW)
    rpc = request(meta)
    rpc.task.backend.as_uri = lambda: "rpc://"
    assert not Succeeded()(rpc, NOW)
