from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.backends.base import DisabledBackend
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.letters.work import Work
from celery_guardrails.worker.main.seen import Copy, Life, Seen, Succeeded

NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)
WORK = Work("t-1", "shop.mail", "shop", "publish-1")
LIFE = Life(WORK, 0)


def test_an_attempt_is_overtaken_by_a_later_one_of_the_same_life():
    seen = Seen()
    seen.note(LIFE, 2)
    seen.note(LIFE, 1)
    assert seen.is_overtaken(LIFE, 1)
    assert not seen.is_overtaken(LIFE, 2)
    works = [replace(WORK, **{name: "another"}) for name in ("task_id", "task", "queue", "publish")]
    for other in (LIFE._replace(generation=1), *(LIFE._replace(work=work) for work in works)):
        assert not seen.is_overtaken(other, 0)


def test_a_copy_begins_once_unless_it_was_sent_again_on_purpose():
    seen = Seen()
    copy = Copy(LIFE, 1, 0)
    assert seen.begins(copy)
    assert not seen.begins(copy)
    assert seen.begins(copy._replace(crashes=1))
    seen.forget(copy, b"body")
    assert seen.begins(copy)


def test_a_message_that_was_acknowledged_is_known_by_all_that_it_is():
    seen, copy = Seen(), Copy(LIFE, 1, 0)
    assert not seen.was_acknowledged(copy, b"body")
    seen.acknowledged(copy, b"body")
    assert seen.was_acknowledged(copy, b"body")
    assert seen.was_acknowledged(copy, memoryview(bytearray(b"body")))
    assert not seen.was_acknowledged(copy, b"another body")
    assert not seen.was_acknowledged(copy._replace(retries=2), b"body")
    seen.forget(copy, b"body")
    assert not seen.was_acknowledged(copy, b"body")


def test_what_nothing_tells_from_others_is_not_remembered():
    seen, copy = Seen(), Copy(LIFE._replace(work=replace(WORK, content="the same in all of them")), 0, 0)
    seen.acknowledged(copy, b"body")
    assert not seen.was_acknowledged(copy, b"body")


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=60))
def test_what_is_remembered_is_bounded_and_never_lowered(notes):
    seen = Seen(most=10)
    for task, retries in notes:
        life = LIFE._replace(work=replace(WORK, task_id=str(task)))
        seen.note(life, retries)
        copy = Copy(life, retries, 0)
        seen.begins(copy)
        seen.acknowledged(copy, b"")
        assert not seen.is_overtaken(life, max(r for t, r in notes if t == task))
    assert len(seen._highest) <= 10
    assert len(seen._begun) <= 10
    assert len(seen._acknowledged) <= 10


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
