"""The service with its store: what is recorded is counted once, and said as the engine decides."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import delete, insert

from celery_guardrails import clock
from celery_guardrails.alerts.event import AlertEvent
from celery_guardrails.alerts.service import AlertService
from celery_guardrails.alerts.sinks.log import LogSink
from celery_guardrails.alerts.sinks.memory import MemorySink
from celery_guardrails.errors import StoreError, Trouble, Undelivered
from celery_guardrails.recovery.retention import prune_pass
from celery_guardrails.settings import AlertSettings
from celery_guardrails.store import alert, outbox
from celery_guardrails.store.alert import GroupRow
from celery_guardrails.store.alert_change import GroupChange, apply_changes
from celery_guardrails.store.engine import open_store
from celery_guardrails.store.table import dead_letter


@pytest.fixture
def store(any_store):
    return any_store


def archived(store, now, **states):
    """Put rows into the archive so that there is something to decide."""
    with store.begin() as conn:
        conn.execute(delete(dead_letter))
        for state, count in states.items():
            for number in range(count):
                conn.execute(
                    insert(dead_letter).values(
                        id=f"{state}-{number}",
                        task="shop.OnboardingEmail",
                        task_id="t",
                        state=state,
                        reason="attempts_exhausted",
                        category="connection",
                        error="E",
                        message="m",
                        fingerprint="v1:smtp",
                        generation=0,
                        environment="production",
                        worker="w",
                        queue="q",
                        severity="error",
                        first_failed_at=now,
                        died_at=now,
                        archived_at=now,
                        attempts=1,
                        death_id="d",
                    )
                )


def test_the_life_of_a_problem_as_slack_shows_it(drive, slack, store):
    driver = drive()
    driver.die(1)
    driver.run()
    assert driver.run(29).delivery.sent == 0
    driver.die(11)
    archived(store, driver.now, dead=12)
    assert driver.run(1).delivery.sent == 1
    (message,) = slack.in_channel("#alerts")
    assert message.blocks[0]["text"]["text"] == "OnboardingEmail: 12 dead letters (production)"
    assert "12 dead" in str(message.blocks[2])
    archived(store, driver.now, dead=2, recovered=10)
    driver.run(61)
    assert "2 dead, 10 recovered" in str(message.blocks[2])
    driver.run(15 * 60)
    driver.settle()
    assert "2 dead letters still need a decision" in message.replies[0].text
    driver.die(1)
    driver.run()
    driver.run(30)
    driver.settle()
    assert len(slack.in_channel()) == 1
    assert "It fails again: 13 dead letters" in message.replies[1].text
    driver.run(15 * 60)
    driver.settle()
    driver.run(3601)
    driver.die(1)
    driver.run()
    driver.run(30)
    driver.settle()
    second = slack.in_channel()[1]
    assert second.blocks[0]["text"]["text"] == "OnboardingEmail: 1 dead letter (production)"
    assert "period 2" in str(second.blocks[-1])


def test_the_same_death_counts_once(drive, store):
    sink = MemorySink()
    driver = drive(sink=sink)
    driver.die(2)
    driver.counter = 0
    driver.die(2)
    assert driver.run(flush=True).events == 2
    driver.counter = 0
    driver.die(2)
    report = driver.run(61)
    assert report.events == 0
    (kept,) = sink.messages.values()
    assert "2 dead letters" in kept.message.text
    assert kept.earlier == ()


def test_record_is_part_of_the_callers_transaction(drive, store):
    driver = drive(sink=MemorySink())
    event = AlertEvent("x", "production", "shop.A", driver.now, "E", "m", "f", "r", "c", "l")
    with store.engine.connect() as conn:
        assert alert.record(conn, [event, event]) == 1
        conn.rollback()
    assert driver.run().events == 0


def test_more_than_a_batch_opens_one_message_with_all(drive):
    sink = MemorySink()
    driver = drive(sink=sink)
    driver.die(2300)
    report = driver.run(flush=True)
    assert (report.events, report.queued) == (2300, 1)
    (kept,) = sink.messages.values()
    assert "2,300 dead letters" in kept.message.text


def test_errors_can_have_groups_of_their_own(drive):
    sink = MemorySink()
    driver = drive(sink=sink, group_by=("task", "error"))
    driver.die(1, fingerprint="v1:a")
    driver.die(1, fingerprint="v1:b")
    driver.run(flush=True)
    assert len(sink.messages) == 2


def test_an_event_that_cannot_be_read_holds_nothing_up(drive, store, caplog):
    sink = MemorySink()
    driver = drive(sink=sink)
    driver.die(2)
    with store.begin() as conn:
        conn.execute(alert.alert_event.update().where(alert.alert_event.c.ref_id == "death-1").values(payload={}))
    assert driver.run(flush=True).events == 1
    assert "death-1 cannot be read" in caplog.text
    assert driver.run().events == 0


def test_who_was_overtaken_writes_nothing(drive, store):
    driver = drive(sink=MemorySink())
    driver.die(1)
    driver.run()
    (row,) = _groups(store)
    stale = GroupRow(row.key, row.environment, row.task, "open", 1, 0, row.data, version=row.version - 1)
    assert apply_changes(store, [GroupChange(stale)], driver.now) is None
    fresh = GroupRow(row.key, row.environment, row.task, "open", 1, 0, row.data, version=row.version)
    assert apply_changes(store, [GroupChange(fresh, ("death-1",))], driver.now) is None
    assert _groups(store) == [row]
    assert apply_changes(store, [GroupChange(fresh)], driver.now) == 0


def test_a_run_that_was_overtaken_still_delivers(drive, store, monkeypatch):
    sink = MemorySink()
    driver = drive(sink=sink)
    driver.die(1)
    monkeypatch.setattr("celery_guardrails.alerts.service.apply_changes", lambda *_: None)
    report = driver.run(flush=True)
    assert (report.events, report.delivery.leading) == (0, True)
    monkeypatch.undo()
    assert driver.run(flush=True).delivery.sent == 1


@pytest.mark.parametrize("attempt", range(20))
def test_two_guardians_count_everything_once(store, drive, attempt):
    sinks = [MemorySink(), MemorySink()]
    first = drive(sink=sinks[0])
    services = [first.service, AlertService(store, sinks[1], AlertSettings(), lease=_Never())]
    first.die(60)
    barrier, counted, failed = threading.Barrier(2), [], []

    def work(service):
        barrier.wait()
        try:
            for _ in range(4):
                counted.append(service.run_once(first.now, flush=True).events)
        except StoreError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(service,)) for service in services]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sum(counted) == 60
    (row,) = _groups(store)
    assert row.data["total"] == 60
    first.settle()
    (kept,) = sinks[0].messages.values()
    assert "60 dead letters" in kept.message.text
    assert sinks[1].messages == {}


class _Never:
    held = None

    def hold(self, now):
        return None


def test_next_due_is_when_something_can_happen(drive):
    driver = drive(sink=MemorySink())
    assert driver.run().next_due is None
    driver.die()
    assert driver.run().next_due == driver.now + timedelta(seconds=30)


def test_drain_delivers_all_it_can_in_the_time_given(drive, slack):
    driver = drive()
    for name in "abc":
        driver.die(task=f"shop.{name}")
    waited = []

    def wait(seconds):
        waited.append(seconds)
        driver.now += timedelta(seconds=seconds)

    report = driver.service.drain(timedelta(seconds=30), now=lambda: driver.now, wait=wait)
    assert (report.events, report.delivery.sent, report.delivery.waiting) == (3, 3, 0)
    assert len(waited) == 2
    driver.die(task="shop.d")
    slack.retry_after = 100
    slack.script("chat.postMessage", "429")
    report = driver.service.drain(timedelta(seconds=30), now=lambda: driver.now, wait=wait)
    assert report.delivery.waiting == 1
    assert slack.in_channel()[-1].blocks[0]["text"]["text"].startswith("c:")


def test_what_is_old_and_done_is_forgotten(drive, store):
    driver = drive(sink=MemorySink())
    driver.die(2)
    driver.run(flush=True)
    driver.settle()
    later = clock.now() + timedelta(days=40)
    prune_pass(store, {}, "guardian", later, timer=lambda: 0.0)
    with store.read() as conn:
        assert conn.execute(alert.alert_event.select()).all() == []
        assert outbox.statuses(conn) == {}
    prune_pass(store, {}, "guardian", later, timer=lambda: 0.0)
    driver.die(1)
    driver.run(flush=True)  # what comes after that begins anew
    with store.read() as conn:
        assert sum(outbox.statuses(conn).values()) == 1


def test_the_log_is_a_sink_like_any(drive, caplog):
    driver = drive(sink=LogSink(), log_always=True)
    archived(driver.store, driver.now, dead=3)
    driver.die(3)
    driver.run()
    driver.run(30)
    assert caplog.text.count("OnboardingEmail: 3 dead letters (production)\n") == 1
    driver.run(15 * 60)
    assert "no new ones" in caplog.text
    assert "3 dead letters still need a decision" in caplog.text


def test_a_store_that_is_gone_is_a_store_error(tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'empty.sqlite3'}")
    with pytest.raises(StoreError):
        AlertService(store, MemorySink(), AlertSettings()).run_once(clock.now())
    store.close()


def test_trouble_of_one_group_does_not_hold_up_another(drive):
    sink = MemorySink(trouble=[Undelivered(Trouble.REFUSED, "never")])
    driver = drive(sink=sink)
    driver.die(task="a.One")
    driver.die(task="b.Two")
    report = driver.run(flush=True)
    assert (report.delivery.sent, report.delivery.failed) == (1, 1)


def _groups(store):
    with store.read() as conn:
        return alert.load_groups(conn, states=["pending", "open", "quiet", "resolved"])
