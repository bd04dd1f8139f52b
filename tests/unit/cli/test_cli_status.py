"""`guardrails status`: each question has its answer on one screen, and its key in the JSON."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from celery_guardrails import clock
from celery_guardrails.cli.output import printer
from celery_guardrails.cli.project import Project
from celery_guardrails.cli.sparkline import drawable, sparkline
from celery_guardrails.cli.status import command, screen
from celery_guardrails.cli.status.overview import BARS, Overdue, overview
from celery_guardrails.errors import StoreError
from celery_guardrails.figures.summary import Summary, TaskFigures
from celery_guardrails.store import figure_beside, lease
from celery_guardrails.store.figure import count
from tests.unit.cli.conftest import Shop
from tests.unit.cli.deaths import dead
from tests.unit.cli.waiting_in_memory import InMemoryWaiting, waiting

MINUTE = timedelta(minutes=1)
EVERY_KEY = {"at", "dead_letters", "tasks", "overdue", "waiting_retries", "cut_off", "alerts", "guardians"}
TASK_KEYS = [
    "task", "attempts", "succeeded", "retried", "dead", "success_rate", "retries_average", "retries_p95",
    "time_to_succeed_p95",
]  # fmt: skip


@pytest.fixture
def now() -> datetime:
    return clock.now()


def figures(at: datetime, task: str = "shop.mail", environment: str = "test", **outcomes: int) -> Summary:
    """A summary of attempts that ended at an instant."""
    made = TaskFigures(outcomes=dict(outcomes))
    made.succeeded_at_attempt = {1: outcomes["succeeded"]} if "succeeded" in outcomes else {}
    made.dead_at_attempt = {5: outcomes["dead"]} if "dead" in outcomes else {}
    made.time_to_succeed.add(2.0, outcomes.get("succeeded", 0)) if "succeeded" in outcomes else None
    return Summary(str(uuid4()), environment, "w@host", 7, at.timestamp() - 10, at.timestamp(), {task: made})


def fill(shop: Shop, summaries: Sequence[Summary], now: datetime) -> None:
    with shop.store.begin() as conn:
        assert count(conn, summaries, now).late == 0


def screen_of(shop: Shop) -> str:
    result = shop.run("status")
    assert result.exit_code == 0, result.output
    return result.stdout


def test_with_nothing_yet_it_says_so(shop: Shop) -> None:
    assert "no archive yet: start a guardian" in shop.run("status").stderr
    shop.archive()
    shown = screen_of(shop)
    assert "none is alive: dead letters and figures wait, and no alert is posted" in shown
    assert "start one: celery -A PROJ guardian" in shown
    assert "none yet: workers under guard send them every 10 s" in shown
    assert "none in the last two hours" in shown
    found = shop.json("status")
    assert found.keys() == EVERY_KEY
    assert found["dead_letters"] == {"undecided": 0, "last_hour": 0, "previous_hour": 0, "oldest_at": None}
    assert (found["tasks"], found["overdue"], found["guardians"]) == ([], [], [])
    assert found["alerts"] == {"open": 0, "acknowledged": 0, "silenced": 0}
    assert found["waiting_retries"] is None  # the broker in memory does not say


def test_it_says_whether_dead_letters_rise_and_what_waits_for_a_decision(shop: Shop, now: datetime) -> None:
    at = [now - minutes * MINUTE for minutes in (3, 4, 5, 90, 60 * 24)]
    letters = [dead(number, died_at=died) for number, died in enumerate(at)]
    shop.archive(*letters, dead(9, task="shop.import", died_at=now - MINUTE), dead(10, environment="x", died_at=now))
    shown = screen_of(shop)
    assert "4 in the last hour, 1 in the hour before: rising" in shown
    assert "6 dead letters, the oldest died 1 d ago" in shown
    assert "shop.mail: 5" in shown
    assert "celery -A PROJ guardrails dlq groups state:dead" in shown
    found = shop.json("status")["dead_letters"]
    assert (found["undecided"], found["last_hour"], found["previous_hour"]) == (6, 4, 1)
    assert found["oldest_at"] == at[-1].isoformat()


def test_it_says_which_task_drives_the_retries_and_since_when(shop: Shop, now: datetime) -> None:
    shop.archive()
    began = now - 50 * MINUTE
    given = [figures(now - 180 * MINUTE, retried=5)]
    given += [figures(began + minutes * MINUTE, retried=4) for minutes in range(0, 50, 5)]
    given += [figures(now, "shop.import", retried=10, succeeded=90)]
    fill(shop, given, now)
    shown = screen_of(shop)
    assert "50 retries in the last hour, 80 % of shop.mail, since" in shown
    since = next(word for word in shown.split("since ")[1].split())
    assert abs((datetime.strptime(since, "%H:%M").minute - began.minute + 30) % 60 - 30) <= 1
    assert "10 min" not in shown.split("since ")[1].partition("\n")[0].replace("50 min", "").replace("49 min", "")


def test_without_one_task_that_drives_them_it_says_so(shop: Shop, now: datetime) -> None:
    shop.archive()
    fill(shop, [figures(now, f"shop.task{number}", retried=20) for number in range(3)], now)
    assert "60 retries in the last hour, driven by no single task" in screen_of(shop)


def test_each_task_has_its_figures(shop: Shop, now: datetime) -> None:
    shop.archive()
    fill(shop, [figures(now, succeeded=90, retried=40, dead=10), figures(now, "shop.idle", ignored=3)], now)
    tasks = {task["task"]: task for task in shop.json("status")["tasks"]}
    assert list(tasks["shop.mail"]) == TASK_KEYS
    assert tasks["shop.mail"] | {"time_to_succeed_p95": None} == {
        "task": "shop.mail", "attempts": 140, "succeeded": 90, "retried": 40, "dead": 10, "success_rate": 0.9,
        "retries_average": 0.4, "retries_p95": 4, "time_to_succeed_p95": None,
    }  # fmt: skip
    assert 1 < tasks["shop.mail"]["time_to_succeed_p95"] <= 2.5
    assert tasks["shop.idle"]["success_rate"] is None
    row = next(line for line in screen_of(shop).splitlines() if line.startswith("shop.mail  "))
    assert row.split()[:8] == ["shop.mail", "140", "90", "%", "0.4", "4", "10", "10"]
    shop.run("status", "--since", "24h")
    assert shop.json("status", "--since", "24h")["tasks"] == list(shop.json("status")["tasks"])


@pytest.mark.parametrize("since", ["1s", "91d", "soon"])
def test_a_period_that_has_no_figures_is_refused(shop: Shop, since: str) -> None:
    result = shop.run("status", "--since", since)
    assert result.exit_code == 2
    assert "--since" in result.stderr


def test_figures_of_another_environment_are_named_and_not_counted(shop: Shop, now: datetime) -> None:
    shop.archive()
    fill(shop, [figures(now, environment="staging", succeeded=1)], now)
    assert "this archive has figures of staging" in screen_of(shop)
    assert shop.json("status")["tasks"] == []


def test_it_says_when_the_last_figures_came(shop: Shop, now: datetime) -> None:
    shop.archive()
    early = now - 150 * MINUTE
    with shop.store.begin() as conn:
        count(conn, [figures(early, succeeded=1)], early)
    assert "no attempt in the last 1 h; the last figures came 2 h 30 min ago" in screen_of(shop)


def test_it_says_which_guardians_are_alive(shop: Shop, now: datetime) -> None:
    shop.archive()
    with shop.store.begin() as conn:
        lease.heartbeat(conn, "a", now, now, "host-a", 41)
        lease.heartbeat(conn, "gone", now, now - timedelta(hours=3), "host-b", 42)
    assert "host-a (process 41), seen" in screen_of(shop)
    assert [(each["host"], each["pid"]) for each in shop.json("status")["guardians"]] == [("host-a", 41)]
    with shop.store.begin() as conn:
        lease.forget(conn, "a")
    assert "none is alive, last seen 3 h ago" in screen_of(shop)


def test_it_says_what_summaries_had_no_room_for(shop: Shop, now: datetime) -> None:
    shop.archive()
    assert "Cut off" not in screen_of(shop)
    assert shop.json("status")["cut_off"] == {"attempts": 0, "dead_letters": 0}
    many = Summary("s", "test", "w@h", 1, now.timestamp() - 1, now.timestamp(), others=1234, dead_unlisted=1)
    with shop.store.begin() as conn:
        figure_beside.add(conn, [many])
        figure_beside.add(conn, [Summary("t", "other", "w@h", 1, 0, 0, others=9)])
    shown = screen_of(shop)
    assert "1,234 attempts of further tasks are in no figures: a worker counts 200 tasks in ten seconds" in shown
    assert "1 dead letter would not be missed if the broker lost them: a worker lists 2,000 in ten seconds" in shown
    assert shop.json("status")["cut_off"] == {"attempts": 1234, "dead_letters": 1}


def test_it_counts_alerts_and_what_waits(shop: Shop, now: datetime) -> None:
    shop.archive(dead(1), dead(2, task="shop.import"))
    shop.run("guardian", "--once")
    project = Project(shop.app)
    project.guardrails.waiting = InMemoryWaiting(*(waiting(str(number), now) for number in range(7)))  # type: ignore[assignment]
    found = overview(project, now, timedelta(hours=1))
    assert (found.alerts["open"], found.waiting) == (2, 7)
    assert shop.json("status")["alerts"]["open"] == 2
    project.archive.close()


def rendered(shop: Shop, now: datetime, columns: int = 80, encoding: str = "utf-8", **changes: Any) -> str:
    """The screen on a terminal."""

    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    project = Project(shop.app, "shop")
    found = overview(project, now, timedelta(hours=1))
    for name, value in changes.items():
        object.__setattr__(found, name, value)
    raw = io.BytesIO()
    file = Terminal(raw, encoding=encoding, errors="strict")
    console = printer(file)
    console.width = columns
    screen.show(console, found, project)
    file.flush()
    project.archive.close()
    return re.sub(r"\x1b\[[\d;]*m", "", raw.getvalue().decode(encoding))  # without colours


def test_overdue_entries_are_shown(shop: Shop, now: datetime) -> None:
    shop.archive()
    late = Overdue("nightly", "shop.report", now - 90 * MINUTE, None, now - timedelta(days=1), "not_sent")
    shown = rendered(shop, now, overdue=[late])
    assert "nightly (shop.report), due 1 h 30 min ago: nobody sent it;" in shown


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_it_fits_every_terminal(shop: Shop, now: datetime, columns: int, encoding: str) -> None:
    shop.archive(*(dead(number, died_at=now - number * MINUTE) for number in range(70)))
    fill(shop, [figures(now - number * MINUTE, succeeded=900, retried=number, dead=1) for number in range(50)], now)
    fill(shop, [figures(now, "shop.a_long_name.of_some_task.that_goes_on_and_on", retried=3)], now)
    text = rendered(shop, now, columns, encoding)
    assert max(map(len, text.splitlines())) <= columns
    assert ("█" in text) == (encoding == "utf-8")
    assert "shop.mail" in text


def test_a_hostile_name_does_not_steer_the_terminal(shop: Shop, now: datetime) -> None:
    shop.archive(dead(1, task="shop\x1b[2J\x07mail", died_at=now))
    assert "\x1b[2J" not in rendered(shop, now)


def test_a_sparkline_shows_the_smallest_number() -> None:
    assert sparkline([0, 1, 500, 1000], blocks=True) == "▁▂▅█"
    assert sparkline([0, 1, 500, 1000], blocks=False) == "_.=#"
    assert sparkline([0, 0], blocks=True) == "▁▁"
    assert sparkline([], blocks=True) == ""
    assert [drawable(name) for name in ("utf-8", "ascii", "latin-1", None, "no-such")] == [True, *[False] * 4]


def test_watching_goes_on_until_ctrl_c(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.archive()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", sleep)
    assert shop.run("status", "--watch").stdout.count("To decide") == 3
    assert slept == [5.0] * 3
    slept.clear()
    assert shop.run("status", "--watch", "1.5").exit_code == 0
    assert slept == [1.5] * 3


def test_watching_outlives_an_archive_that_is_away_for_a_moment(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.archive()
    answers = iter([StoreError("the archive", "locked", away=True), None, KeyboardInterrupt()])

    def sometimes(*given: Any) -> Any:
        if (error := next(answers)) is not None:
            raise error
        return overview(*given)

    monkeypatch.setattr(command, "overview", sometimes)
    monkeypatch.setattr(command.time, "sleep", lambda _: None)
    result = shop.run("status", "--watch")
    assert result.exit_code == 0
    assert "locked; trying again" in result.stdout
    assert result.stdout.count("To decide") == 1


@pytest.mark.parametrize("words", [("--watch", "0"), ("--watch", "x"), ("--watch", "2", "--json")])
def test_a_wrong_watch_is_refused(shop: Shop, words: tuple[str, ...]) -> None:
    shop.archive()
    assert shop.run("status", *words).exit_code == 2


def test_two_hours_are_as_many_bars_as_the_screen_says() -> None:
    assert BARS * 5 == 120
