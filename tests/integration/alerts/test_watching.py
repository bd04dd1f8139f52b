"""The signals that a guardian looks for itself: each begins once, and ends, in the archive and in the channel."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.errors import StoreError
from celery_guardrails.figures.summary import Summary
from celery_guardrails.guardian.watching import SinkDown, SpoolGrowing, Unreconciled, Watching
from celery_guardrails.policy.alert import Limits, limits
from celery_guardrails.policy.policy import Policy
from celery_guardrails.policy.threshold import UnreconciledThreshold
from celery_guardrails.store import alert, reconcile

MINUTE = timedelta(minutes=1)


@pytest.fixture
def store(any_store):
    return any_store


def headlines(slack):
    return [message.blocks[0]["text"]["text"] for message in slack.in_channel()]


def look(driver, watching, minutes=1):
    for _ in range(minutes):
        driver.now += MINUTE
        watching.run_once(driver.now, False)
        driver.run()
        driver.run(30)
        driver.settle(0)
        driver.now -= timedelta(seconds=30)


def test_letters_that_workers_counted_and_nobody_archived(drive, slack, store):
    driver = drive()
    lost = str(uuid4())
    summary = Summary(
        "s1", "production", "w@h", 1, driver.now.timestamp(), driver.now.timestamp(), dead={lost: "shop.a"}
    )
    with store.begin() as conn:
        assert reconcile.note_counted(conn, [summary], driver.now) == 1
    watching = Watching(store, [Unreconciled(store, "production", Limits(UnreconciledThreshold()))])
    for _ in range(9):
        with store.begin() as conn:
            reconcile.look_up(conn, driver.now, backlog=False)
        look(driver, watching)
    assert slack.in_channel() == []
    for _ in range(2):
        with store.begin() as conn:
            reconcile.look_up(conn, driver.now, backlog=False)
        look(driver, watching)
    assert headlines(slack) == ["a: dead letters missing from the archive (production)"]
    assert lost in slack.in_channel()[0].blocks[1]["text"]["text"]
    driver.die(task="shop.a", ref_id=lost)  # it has only been late
    for _ in range(3):
        with store.begin() as conn:
            reconcile.look_up(conn, driver.now, backlog=False)
        look(driver, watching)
    (group,) = groups(store)
    assert not group.holds


def test_a_task_says_how_long_its_letters_may_be_under_way(drive, store):
    driver = drive()
    dead = {str(uuid4()): task for task in ("shop.soon", "shop.usual", "shop.muted")}
    at = driver.now.timestamp()
    with store.begin() as conn:
        assert reconcile.note_counted(conn, [Summary("s1", "production", "w@h", 1, at, at, dead=dead)], driver.now) == 3
    soon, muted = ({"unreconciled": {"after": "2m"}}, {"unreconciled": False})
    words = {"shop.soon": Policy(alert=soon).alert, "shop.muted": Policy(alert=muted).alert}
    source = Unreconciled(store, "production", limits(UnreconciledThreshold(), "unreconciled", words))

    def found(minutes):
        with store.begin() as conn:
            reconcile.look_up(conn, driver.now + minutes * MINUTE, backlog=False)
        return sorted(each.task for each in source.find(driver.now + minutes * MINUTE))

    assert [found(minutes) for minutes in range(3)] == [[], [], ["shop.soon"]]
    assert [found(minutes) for minutes in range(3, 11)][-1] == ["shop.soon", "shop.usual"]


def groups(store):
    with store.read() as conn:
        rows = alert.load_groups(conn, states=["pending", "open", "acknowledged", "quiet", "resolved"])
    return [AlertGroup.from_payload(row.data) for row in rows]


def test_a_sink_that_refuses_alerts_is_told_of_by_the_fallback(drive, slack, store):
    driver = drive()
    driver.run()
    watching = Watching(store, [SinkDown(driver.service.poster, "production")])
    look(driver, watching)
    assert groups(store) == []
    slack.mode = "invalid_auth"
    driver.die(1)
    look(driver, watching, 3)
    known = {group.task: group for group in groups(store)}
    assert known["!guardrails"].conditions["sink_down/slack"].holds
    slack.mode = "ok"
    look(driver, watching, 8)
    known = {group.task: group for group in groups(store)}
    assert not known["!guardrails"].holds


def test_a_guardian_that_does_not_post_says_nothing_of_sinks(drive, store):
    driver = drive()
    driver.service.poster.leads = False
    assert SinkDown(driver.service.poster, "production").find(driver.now) is None


@pytest.mark.parametrize(
    ("counts", "grows"),
    [
        ([1, 2, 3, 4, 5], True),
        ([1, 1, 1, 1, 2], True),
        ([3, 3, 3, 3, 3], False),
        ([9, 2, 3, 4, 5], False),
        ([1, 2, 3, 2, 5], False),
        ([1, 2, 3, 4], False),
    ],
)
def test_when_a_spool_grows(drive, counts, grows):
    rest, driver = list(counts), drive()
    source = SpoolGrowing(lambda: rest.pop(0), "production", "host-1")
    found = [source.find(driver.now) for _ in counts]
    assert bool(found[-1]) is grows
    assert not any(found[:-1])


def test_a_spool_that_grows_is_an_alert_until_it_is_shipped(drive, slack, store):
    driver, files = drive(), [0]
    here = Watching(store, [SpoolGrowing(lambda: files[0], "production", "host-1")])
    elsewhere = Watching(store, [SpoolGrowing(lambda: 0, "production", "host-2")])
    for _ in range(7):
        files[0] += 3
        look(driver, here)
        elsewhere.run_once(driver.now, False)  # it speaks of its own spool alone
    assert headlines(slack) == ["celery-guardrails: spool grows (production)"]
    files[0] = 0
    look(driver, here, 3)
    assert headlines(slack) == ["celery-guardrails: spool grows (production), over"]
    assert len(slack.in_channel()[0].replies) == 1


def test_a_guardian_that_starts_anew_ends_what_an_earlier_one_began(drive, slack, store):
    driver, files = drive(), [0]
    first = Watching(store, [SpoolGrowing(lambda: files[0], "production", "host-1")])
    for _ in range(6):
        files[0] += 1
        look(driver, first)
    look(driver, Watching(store, [SpoolGrowing(lambda: 0, "production", "host-1")]), 2)
    assert not groups(store)[0].holds


class Broken:
    """A source that fails."""

    def __init__(self, scope, exc):
        self.scope, self.exc = scope, exc

    def find(self, now):
        raise self.exc


def test_a_source_that_fails_keeps_no_other_from_looking(drive, slack, store, caplog):
    driver, files = drive(), [0]
    growing = SpoolGrowing(lambda: files[0], "production", "host-1")
    broken = Broken(Unreconciled(store, "production", Limits(UnreconciledThreshold())).scope, RuntimeError("odd"))
    watching = Watching(store, [broken, growing])
    for _ in range(6):
        files[0] += 1
        look(driver, watching)
    assert headlines(slack) == ["celery-guardrails: spool grows (production)"]
    assert [record.getMessage() for record in caplog.records if "nobody looks" in record.getMessage()] == [
        "nobody looks for unreconciled now: RuntimeError('odd')"
    ]


def test_an_archive_that_is_away_is_the_guardians_trouble(drive, store):
    driver = drive()
    scope = Unreconciled(store, "production", Limits(UnreconciledThreshold())).scope
    watching = Watching(store, [Broken(scope, StoreError("sqlite:///a", "it is away", away=True))])
    with pytest.raises(StoreError):
        watching.run_once(driver.now, False)
