"""Messages that come twice: recognised by what this worker, the broker and the result backend know."""

from __future__ import annotations

import json
import signal
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from kombu.serialization import dumps

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.letters.header import Header, write_header
from celery_guardrails.transport.publisher import Envelope, Publisher
from celery_guardrails.transport.started import StartedMarks, mark_name
from tests.guarded import Guarded
from tests.waiting import wait_until


def message(
    losing: Guarded, task_id: str, key: str, header: Header, retries: int = 0, task: str = "guarded.heard"
) -> Envelope:
    """A message as a producer, or an earlier attempt, sends it."""
    content_type, encoding, body = dumps(([], {"key": key}, {}), "json")
    headers: dict[str, Any] = {"lang": "py", "task": task, "id": task_id, "root_id": task_id}
    headers.update(parent_id=None, group=None, retries=retries, eta=None, expires=None)
    write_header(headers, header)
    raw = body.encode() if isinstance(body, str) else body
    return Envelope(raw, f"{losing.prefix}.tasks", "", content_type, encoding, headers)


def test_an_overtaken_attempt_and_a_second_copy_do_not_run(losing):
    worker = losing.worker("-c", "1")
    publisher = Guardrails.of(losing.app).publisher
    header = Header(datetime.now(timezone.utc), work="one")
    queue = losing.app.amqp.queues[f"{losing.prefix}.tasks"]
    for key, retries in (("third", 2), ("again", 2), ("first", 1)):
        publisher.publish(message(losing, "t-1", key, header, retries), [queue])
        losing.finish()
    assert len(losing.runs("third")) == 1
    assert losing.runs("again") == losing.runs("first") == []
    assert "the same message has begun here before" in worker.log()
    assert "a later attempt of it is known" in worker.log()
    another = Header(header.published_at, work="another")
    publisher.publish(message(losing, "t-1", "first", another, 1), [queue])
    losing.wait_for_runs("first", 1)
    publisher.close()


def test_requeued_work_that_was_put_back_twice_runs_once(losing):
    worker = losing.worker("-c", "1")
    publisher = Guardrails.of(losing.app).publisher
    now = datetime.now(timezone.utc)
    queue = losing.app.amqp.queues[f"{losing.prefix}.tasks"]
    for generation in (1, 1, 2):
        header = Header(now, now, dead_letter_id="d1d1d1d1-0000-4000-8000-000000000001", generation=generation)
        publisher.publish(message(losing, "t-2", f"life-{generation}", header), [queue])
    losing.finish()
    assert len(losing.runs("life-1")) == 1
    assert len(losing.runs("life-2")) == 1
    assert worker.log().count("the same message has begun here before") == 1
    publisher.close()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_was_acknowledged_before_it_began_is_not_run_when_its_broker_forgets_that(losing, pool):
    """A broker that is killed may have lost the newest acknowledgements: it sends the same messages again."""
    (losing.runs_folder / "go").touch()
    worker = losing.worker("-c", "1", pool=pool)
    publisher = Guardrails.of(losing.app).publisher
    queue = losing.app.amqp.queues[f"{losing.prefix}.tasks"]
    now = datetime.now(timezone.utc)
    told, later = Header(now), Header(now + timedelta(seconds=1))
    for key, header in (("once", told), ("once", told), ("later", later), ("unknown", Header()), ("unknown", Header())):
        publisher.publish(message(losing, "t-3", key, header, task="guarded.until_go"), [queue])
    losing.wait_for_runs("unknown", 2)  # what is acknowledged late may overtake them
    losing.finish()
    assert {key: len(losing.runs(key)) for key in ("once", "later", "unknown")} == {"once": 1, "later": 1, "unknown": 2}
    assert worker.log().count("is acknowledged without running: it was acknowledged here before") == 1
    losing.no_letters()
    publisher.close()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_of_two_that_wait_for_their_turn_one_runs(losing, pool):
    """Neither was acknowledged when the other one came."""
    worker = losing.worker("-c", "1", pool=pool)
    losing.tasks.until_go.delay("before")
    losing.wait_for_runs("before", 1)
    publisher = Guardrails.of(losing.app).publisher
    queue = losing.app.amqp.queues[f"{losing.prefix}.tasks"]
    told = Header(datetime.now(timezone.utc))
    for _ in range(2):
        publisher.publish(message(losing, "t-4", "twin", told, task="guarded.until_go"), [queue])
    wait_until(lambda: worker.log().count("[t-4] received") == 2, 30, "both to be taken")
    (losing.runs_folder / "go").touch()
    losing.wait_for_runs("twin", 1)
    worker.wait_for_log("it was acknowledged here before")
    losing.finish()
    assert len(losing.runs("twin")) == 1
    losing.no_letters()
    publisher.close()


@pytest.mark.parametrize(
    ("task", "options"), [("slow", {}), ("slow_early", {}), ("slow", {"task_id": "one-a-customer"})]
)
def test_what_succeeded_but_was_not_acknowledged_does_not_run_again(losing, task, options):
    """Unless somebody chose its task id: then the success may be that of other work under the same id."""
    worker = losing.worker("-c", "1", "--prefetch-multiplier", "2")
    losing.tasks.slow.delay("before", 1)
    done = getattr(losing.tasks, task).apply_async(("done", 0), **options)
    losing.wait_for_runs("before", 1)
    # its success is known, and its message comes back with the dead worker's others
    meta = {"status": "SUCCESS", "result": "done", "traceback": None, "children": [], "task_id": done.id}
    meta["date_done"] = (datetime.now(timezone.utc) + timedelta(seconds=1)).isoformat()
    losing.app.backend.client.set(losing.app.backend.get_key_for_task(done.id), json.dumps(meta))
    wait_until(lambda: f"[{done.id}] received" in worker.log(), 30, "the second task to be taken")
    worker.signal(signal.SIGKILL)
    worker.wait(20)
    after = losing.worker("-c", "1")
    if not options:
        after.wait_for_log("the result backend says that it has succeeded")
    losing.wait_for_runs("before.done", 1)
    losing.finish()
    assert len(losing.runs("done")) == len(options)


def test_marks_are_found_by_others_and_removed(losing):
    name = mark_name(f"{losing.prefix}.dead", "t-1/0/0/0")
    publisher = Publisher(losing.app)
    marks, others = StartedMarks(losing.app, publisher), StartedMarks(losing.app, publisher)
    assert not marks.has(name)
    for _ in range(2):
        marks.put(name)
        assert others.has(name)
        others.remove(name)
        assert not marks.has(name)
        marks.remove(name)
    for owner in (marks, others, publisher):
        owner.close()
