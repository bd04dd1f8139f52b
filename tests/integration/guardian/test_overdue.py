"""What should have run and did not: by Celery's own schedules, and by what a policy expects."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

import pytest
from celery import Celery
from celery.schedules import crontab

from celery_guardrails import GuardedTask, Policy
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.cli.overdue import OverdueSource, find_overdue, overdue_entries
from celery_guardrails.figures.summary import Summary, TaskFigures
from celery_guardrails.guardian.watching import Watching
from celery_guardrails.store import alert
from celery_guardrails.store.engine import Store, open_store
from celery_guardrails.store.figure import count
from tests.archive import migrated_file

# kombu's own tables on a database name a way to load that SQLAlchemy will drop
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
NOW = datetime(2026, 11, 23, 12, 0, 30, tzinfo=timezone.utc)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(migrated_file(tmp_path / "archive.db"))
    yield opened
    opened.close()


def application(
    schedule: dict, clock: list[datetime], policies: dict[str, Policy] | None = None, zone: str = "UTC", **overdue
) -> Guardrails:
    app = Celery("shop", broker="sqla+sqlite:///:memory:", set_as_current=False)
    app.conf.timezone = zone
    app.conf.beat_schedule = schedule
    app.conf.guardrails = {"alerts": {"thresholds": {"overdue": overdue}}}
    app.now = lambda: clock[0].astimezone(app.timezone)
    for name in ("shop.nightly", "shop.often", "shop.expected", "shop.plain"):

        def body() -> None:
            """Do nothing."""

        guarded = {} if name == "shop.plain" else {"base": GuardedTask, "policy": (policies or {}).get(name, Policy())}
        app.task(body, name=name, shared=False, **guarded)
    app.finalize()
    return Guardrails.of(app)


def ran(store: Store, task: str, at: datetime, *, succeeded: bool = True) -> None:
    figures = TaskFigures(outcomes={"succeeded" if succeeded else "dead": 1}, last_started_at=at.timestamp())
    figures.last_succeeded_at = at.timestamp() if succeeded else None
    made = Summary(str(uuid4()), "production", "w@h", 1, at.timestamp() - 10, at.timestamp(), tasks={task: figures})
    with store.begin() as conn:
        assert count(conn, [made], at).fresh


class Days:
    """An application whose guardian looks at an instant that the test says."""

    def __init__(self, store: Store, schedule: dict, policies: dict[str, Policy] | None = None, **settings) -> None:
        self.clock, self.store = [NOW], store
        self.guardrails = application(schedule, self.clock, policies, **settings)
        self.source = OverdueSource(self.guardrails, store, lambda: False)
        self.source.find(NOW)

    def at(self, now: datetime) -> list[tuple[str, str]]:
        self.clock[0] = now
        return [(finding.task, finding.subject) for finding in self.source.find(now) or ()]


def nightly() -> dict:
    # a crontab keeps the time zone of the application that first asks it
    return {"clean up": {"task": "shop.nightly", "schedule": crontab(hour=2, minute=0)}}


DUE = datetime(2026, 11, 24, 2, 0, tzinfo=timezone.utc)


def test_an_entry_that_never_ran_is_overdue_after_a_tenth_of_its_period(store):
    days = Days(store, nightly())
    assert days.at(DUE + 2 * HOUR) == []
    assert days.at(DUE + 2.5 * HOUR) == [("shop.nightly", "clean up")]
    (found,) = find_overdue(days.guardrails, store, DUE + 3 * HOUR)
    assert (found.due_at, found.last_started_at, found.why) == (DUE, None, "not_sent")
    assert "clean up was due at" in found.words
    assert "beat has not sent it" in found.words


def test_an_entry_that_ran_is_not_overdue_until_its_next_time(store):
    days = Days(store, nightly())
    ran(store, "shop.nightly", DUE + timedelta(seconds=1))
    assert days.at(DUE + 20 * HOUR) == []
    assert days.at(DUE + 26 * HOUR) == []
    assert days.at(DUE + 27 * HOUR) == [("shop.nightly", "clean up")]
    ran(store, "shop.nightly", DUE + 27 * HOUR)
    assert days.at(DUE + 28 * HOUR) == []


def test_a_failed_attempt_is_no_silence(store):
    days = Days(store, nightly())
    ran(store, "shop.nightly", DUE + timedelta(seconds=1), succeeded=False)
    assert days.at(DUE + 3 * HOUR) == []


def test_a_worker_whose_clock_is_behind_has_run_it(store):
    days = Days(store, {"often": {"task": "shop.often", "schedule": crontab(minute="*/10")}})
    ran(store, "shop.often", NOW + 10 * MINUTE - timedelta(seconds=31))  # 12:09:59
    assert days.at(NOW + 13 * MINUTE) == []


@pytest.mark.parametrize("schedule", [300, 300.0, timedelta(minutes=5), crontab(minute="*/5")])
def test_every_form_of_a_schedule(store, schedule):
    days = Days(store, {"often": {"task": "shop.often", "schedule": schedule}})
    assert days.at(NOW + 6 * MINUTE) == []
    assert days.at(NOW + 8 * MINUTE) == [("shop.often", "often")]


def test_a_schedule_goes_by_the_applications_time_zone(store):
    days = Days(store, nightly(), zone="America/New_York")
    due = datetime(2026, 11, 24, 7, 0, tzinfo=timezone.utc)
    (found,) = find_overdue(days.guardrails, store, due + 3 * HOUR) if days.at(due + 3 * HOUR) else (None,)
    assert found is not None
    assert found.due_at == due


def test_what_is_not_guarded_or_ignored_is_not_looked_at(store):
    schedule = {
        "plain": {"task": "shop.plain", "schedule": 60},
        "other program": {"task": "gone.task", "schedule": 60},
        "noise 1": {"task": "shop.often", "schedule": 60},
    }
    days = Days(store, schedule, ignore=("noise *",))
    assert days.at(NOW + 10 * HOUR) == []


def test_a_policy_expects_a_success(store):
    days = Days(store, {}, {"shop.expected": Policy(expect_every="1h", owner="ops")})
    assert days.at(NOW + 65 * MINUTE) == []
    assert days.at(NOW + 70 * MINUTE) == [("shop.expected", "expect_every")]
    ran(store, "shop.expected", NOW + 71 * MINUTE, succeeded=False)
    assert days.at(NOW + 72 * MINUTE) == [("shop.expected", "expect_every")]
    (found,) = find_overdue(days.guardrails, store, NOW + 72 * MINUTE)
    assert found.why == "no_success"
    ran(store, "shop.expected", NOW + 73 * MINUTE)
    assert days.at(NOW + 74 * MINUTE) == []


def test_a_guardian_that_starts_anew_expects_what_an_earlier_one_did(store):
    Days(store, nightly())
    later = Days.__new__(Days)
    later.clock, later.store = [DUE + 3 * HOUR], store
    later.guardrails = application(nightly(), later.clock)
    later.source = OverdueSource(later.guardrails, store, lambda: False)
    assert later.at(DUE + 3 * HOUR) == [("shop.nightly", "clean up")]


def test_an_entry_that_left_the_schedule_is_over(store):
    days = Days(store, nightly())
    watching = Watching(store, [days.source])
    days.clock[0] = DUE + 3 * HOUR
    watching.run_once(DUE + 3 * HOUR, False)
    with store.read() as conn:
        ((_, payload),) = alert.unprocessed(conn)
    assert (payload["signal"], payload["holds"], payload["subject"]) == ("overdue", True, "clean up")
    days.guardrails.app.conf.beat_schedule = {}
    assert days.at(DUE + 4 * HOUR) == []


def test_on_a_broker_that_carries_no_figures_nothing_is_overdue(store: Store) -> None:
    days = Days(store, nightly())
    assert days.at(NOW + timedelta(days=3))
    days.guardrails.app.conf.broker_url = "memory://"
    assert days.at(NOW + timedelta(days=3)) == []


def test_a_broker_that_is_away_says_nothing(store):
    source = OverdueSource(application(nightly(), [NOW]), store, lambda: True)
    assert source.find(NOW) is None


@pytest.mark.timeout(60)
def test_a_broker_that_does_not_answer_holds_nobody_up(store: Store) -> None:
    schedule = {name: {"task": "shop.often", "schedule": 60} for name in ("one", "two", "three")}
    days = Days(store, schedule)
    days.guardrails.app.conf.broker_url = "redis://127.0.0.1:1/0"  # nobody listens there
    found = find_overdue(days.guardrails, store, NOW + HOUR)
    assert [each.why for each in found] == ["not_sent"] * 3
    assert "the broker does not answer" in found[0].words
    assert [each.entry for each in overdue_entries(days.guardrails, store, NOW + HOUR)] == ["one", "three", "two"]
