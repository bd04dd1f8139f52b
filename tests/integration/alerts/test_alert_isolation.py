"""One group that cannot be kept, read, shown or sent stops no other, on every kind of database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text, update

from celery_guardrails import clock
from celery_guardrails.alerts import composition
from celery_guardrails.alerts import outbox as posting
from celery_guardrails.alerts import service as counting
from celery_guardrails.alerts.event import AlertEvent
from celery_guardrails.alerts.service import AlertService
from celery_guardrails.alerts.sinks.memory import MemorySink
from celery_guardrails.settings import AlertSettings
from celery_guardrails.store import alert
from celery_guardrails.store.alert import alert_event, alert_group
from celery_guardrails.store.engine import Store
from tests.unit.guardian.test_ingest import letter as letter_of_task

T0 = clock.now()


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


class Desk:
    """A service that posts into memory."""

    def __init__(self, store: Store, **settings: Any) -> None:
        self.store, self.sink, self.now, self.number = store, MemorySink(), T0, 0
        self.service = AlertService(store, self.sink, AlertSettings(**settings))

    def die(self, task: str, count: int = 1, **fields: Any) -> None:
        events = []
        for _ in range(count):
            self.number += 1
            found = letter_of_task(self.number, task).model_copy(update={"died_at": self.now, **fields})
            events.append(AlertEvent.from_letter(found))
        with self.store.begin() as conn:
            alert.record(conn, events)

    def run(self, after: float = 60.0) -> list[str]:
        self.now += timedelta(seconds=after)
        self.service.run_once(self.now, flush=True)
        return [kept.message.plain for kept in self.sink.messages.values()]

    def uncounted(self) -> int:
        with self.store.read() as conn:
            return len(alert.unprocessed(conn))


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


def refuse(store: Store, table: str, column: str, value: str) -> None:
    """Let the archive refuse rows, as a constraint would."""
    with store.begin() as conn:
        if conn.dialect.name == "sqlite":
            when = f"BEFORE INSERT ON {table} WHEN NEW.{column} = '{value}'"
            conn.execute(text(f"CREATE TRIGGER refusal {when} BEGIN SELECT RAISE(ABORT, 'no'); END"))
        else:
            conn.execute(text(f"ALTER TABLE {table} ADD CONSTRAINT refusal CHECK ({column} <> '{value}')"))


@pytest.mark.parametrize("task", ["t" * 10_000, "\U0001f4a3" * 10_000, "\0", "a\ud800", "x/" * 3_000, "\n", ""])
def test_a_name_of_any_kind_has_its_alert_beside_the_others(desk: Desk, task: str) -> None:
    desk.die(task)
    desk.die("shop.good")
    posted = desk.run()
    assert len(posted) == 2
    assert sum("shop.good" in each for each in posted) == 1
    assert desk.uncounted() == 0


def test_names_that_begin_alike_have_an_alert_each(desk: Desk) -> None:
    desk.die("t" * 10_000 + "a")
    desk.die("t" * 10_000 + "b")
    assert len(desk.run()) == 2


def test_a_group_that_cannot_be_kept_is_left_out_and_said_once(
    desk: Desk, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(store, alert_group.name, "task", "shop.cursed")
    for _ in range(3):
        desk.die("shop.cursed")
        desk.die("shop.good")
        desk.run()
    assert [("shop.good" in each) for each in desk.run()] == [True]
    assert "3 messages of shop.good" in desk.run()[0]
    assert caplog.text.count("cannot be stored, so its dead letters are only in the archive") == 1
    assert desk.uncounted() == 0, "they would come again with each run"


def cursed(whole: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """The same, but that it fails for one task's group."""

    def call(group: Any, *rest: Any) -> Any:
        if group.task == "shop.cursed":
            raise error
        return whole(group, *rest)

    return call


def test_a_group_that_cannot_be_stepped_is_left_out_and_said_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(counting, "step", cursed(counting.step, OverflowError("date value out of range")))
    for _ in range(2):
        desk.die("shop.cursed")
        desk.die("shop.good")
        assert len(desk.run()) == 1
    assert caplog.text.count("cannot be stored") == 1
    assert desk.uncounted() == 0


def test_a_group_that_cannot_be_read_begins_anew(desk: Desk, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    for task in ("shop.broken", "shop.good"):
        desk.die(task)
    assert len(desk.run()) == 2
    with store.begin() as conn:
        broken = update(alert_group).where(alert_group.c.task == "shop.broken")
        conn.execute(broken.values(data={"key": 7}))
    desk.die("shop.good")
    assert len(desk.run()) == 2
    for task in ("shop.broken", "shop.good"):
        desk.die(task)
    posted = desk.run(600)
    assert [each for each in posted if "3 messages of shop.good" in each]
    assert sum("1 message of shop.broken" in each for each in posted) == 2, "the first alert, and the one begun anew"
    assert caplog.text.count("cannot be read") == 1


def test_an_event_that_cannot_be_read_is_left_out(desk: Desk, store: Store) -> None:
    desk.die("shop.cursed")
    with store.begin() as conn:
        conn.execute(update(alert_event).values(payload={"ref_id": []}))
    desk.die("shop.good")
    assert len(desk.run()) == 1
    assert desk.uncounted() == 0


def test_a_group_that_cannot_be_shown_is_alerted_in_brief(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(composition, "render", cursed(composition.render, ValueError("no such colour")))
    for _ in range(3):
        desk.die("shop.cursed")
        desk.die("shop.good")
        posted = desk.run(120)
    assert len(posted) == 2
    assert any("3 messages of shop.good" in each for each in posted)
    (brief,) = [each for each in posted if "shop.good" not in each]
    assert brief.startswith("shop.cursed: dead letters (no environment). This alert cannot be shown in full")
    assert caplog.text.count("is shown in brief") == 1


def test_a_notification_that_can_be_neither_sent_nor_noted_stops_no_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = composition._action
    changed = posting.Poster._change

    def action(row: Any, group: Any, **able: Any) -> Any:
        if "cursed" in row.group_key:
            raise KeyError("a defect")
        return whole(row, group, **able)

    def change(self: Any, row: Any, *rest: Any, **values: Any) -> Any:
        if "cursed" in row.group_key:
            raise ValueError("another one")
        return changed(self, row, *rest, **values)

    monkeypatch.setattr(composition, "_action", action)
    monkeypatch.setattr(posting.Poster, "_change", change)
    for _ in range(3):
        desk.die("shop.cursed")
        desk.die("shop.good")
        posted = desk.run(120)
    assert len(posted) == 1
    assert "3 messages of shop.good" in posted[0]
    assert caplog.text.count("is given up") == 1


def test_what_a_sink_says_may_hold_what_no_column_does(desk: Desk) -> None:
    from celery_guardrails.errors import Trouble, Undelivered

    desk.sink.trouble = [Undelivered(Trouble.UNAVAILABLE, "bad\0 gateway \ud800")]
    desk.die("shop.good")
    desk.run()
    assert len(desk.run(600)) == 1


def test_an_archive_that_is_away_leaves_no_group_out(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from celery_guardrails.errors import StoreError

    desk.die("shop.good")
    with monkeypatch.context() as patch:

        def apply_changes(*_: Any) -> int:
            raise StoreError("?", "locked", away=True)

        patch.setattr(counting, "apply_changes", apply_changes)
        with pytest.raises(StoreError):
            desk.run()
    assert desk.uncounted() == 1
    assert len(desk.run()) == 1
    assert "cannot be stored" not in caplog.text


Names = Callable[[], list[str]]


@pytest.mark.parametrize("group_by", [("task",), ("task", "error")])
def test_tasks_that_nobody_knows_are_one_alert(store: Store, group_by: tuple[str, ...]) -> None:
    from celery_guardrails.guardian.ingest import Ingest
    from celery_guardrails.letters.codec import encode
    from celery_guardrails.policy.decision import Reason
    from tests.unit.guardian.test_ingest import Delivery

    desk = Desk(store, group_by=group_by)
    unknown = {"reason": Reason.UNKNOWN_TASK, "environment": "production"}
    letters = [letter_of_task(n, f"made.up{n}").model_copy(update=unknown) for n in range(200)]
    known = letter_of_task(999, "made.up7").model_copy(update={"environment": "production"})
    deliveries = [Delivery(encode(each)) for each in [*letters, known]]
    Ingest(store, [], "production").run_once(deliveries, T0)
    posted = desk.run()
    assert len(posted) == 2
    (alarm,) = [each for each in posted if "unknown tasks" in each]
    assert alarm.startswith("unknown tasks: 200 dead letters (production)")
    assert "200 messages named a task that the worker does not know." in alarm
    assert "made.up0, made.up1, " in alarm
    assert "and 10+ more" in alarm
    assert "Letters of unknown tasks: 200 dead" in alarm
    assert "dlq requeue 'reason:unknown_task state:dead'" in alarm
    assert len(alarm) < 4_000
    desk.die("made.up3", reason=Reason.UNKNOWN_TASK, environment="production")
    assert len(desk.run(120)) == 2
