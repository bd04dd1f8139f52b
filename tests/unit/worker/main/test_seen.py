from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.letters.work import Work
from celery_guardrails.worker.main.seen import Copy, Life, Seen

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
    seen.note_acknowledged(copy, b"body")
    assert seen.was_acknowledged(copy, b"body")
    assert seen.was_acknowledged(copy, memoryview(bytearray(b"body")))
    assert not seen.was_acknowledged(copy, b"another body")
    assert not seen.was_acknowledged(copy._replace(retries=2), b"body")
    seen.forget(copy, b"body")
    assert not seen.was_acknowledged(copy, b"body")


def test_what_nothing_tells_from_others_is_not_remembered():
    seen, copy = Seen(), Copy(LIFE._replace(work=replace(WORK, content="the same in all of them")), 0, 0)
    seen.note_acknowledged(copy, b"body")
    assert not seen.was_acknowledged(copy, b"body")


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=60))
def test_what_is_remembered_is_bounded_and_never_lowered(notes):
    seen = Seen(most=10)
    for task, retries in notes:
        life = LIFE._replace(work=replace(WORK, task_id=str(task)))
        seen.note(life, retries)
        copy = Copy(life, retries, 0)
        seen.begins(copy)
        seen.note_acknowledged(copy, b"")
        assert not seen.is_overtaken(life, max(r for t, r in notes if t == task))
    assert len(seen._highest) <= 10
    assert len(seen._begun) <= 10
    assert len(seen._acknowledged) <= 10
