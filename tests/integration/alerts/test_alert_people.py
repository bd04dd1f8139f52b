"""What people do about alerts, and what the channel then gets: on every database, with Slack's stand-in."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from celery_guardrails.alerts.condition import OWN_HEALTH, Condition
from celery_guardrails.alerts.group import AlertGroup
from celery_guardrails.alerts.people import (
    Actor,
    acknowledge,
    end_silence,
    find_alert,
    new_silence,
    unacknowledge,
)
from celery_guardrails.alerts.rules import Rules
from celery_guardrails.alerts.sinks.memory import MemorySink
from celery_guardrails.errors import AlertRefused
from celery_guardrails.policy.alert import TaskAlerts
from celery_guardrails.policy.threshold import DeadLetterThreshold
from celery_guardrails.store import alert, audit
from celery_guardrails.store.silence import Silence

TASK = "shop.OnboardingEmail"
ADA = Actor("ada@desk", "I look at it")


@pytest.fixture
def store(any_store):
    return any_store


def opened(drive, count=12, **alerts):
    driver = drive(**alerts)
    driver.die(count)
    driver.run()
    driver.run(30)
    driver.settle()
    return driver


def the_alert(driver):
    with driver.store.read() as conn:
        (row,) = alert.load_groups(conn, states=["pending", "open", "acknowledged", "quiet", "resolved"])
    return find_alert(driver.store, AlertGroup.from_payload(row.data).alert_id)[1]


def wanted(driver, task=TASK, **fields):
    known = {"environment": "production", "until": driver.now + timedelta(hours=1), "reason": "deploying"}
    return Silence(id="", task=task, created_by="ada", created_at=driver.now, **{**known, **fields})


def trail(driver):
    with driver.store.read() as conn:
        return [(entry.actor, entry.action, entry.reason) for entry in audit.entries(conn)]


def test_an_acknowledgement_is_shown_in_the_message_and_in_its_thread(drive, slack):
    driver = opened(drive)
    known = the_alert(driver)
    held = acknowledge(driver.store, Rules(), known.alert_id[:5], ADA, timedelta(hours=2), driver.now)
    assert held.state == "acknowledged"
    driver.settle()
    (message,) = slack.in_channel("#alerts")
    assert "Acknowledged by ada@desk until" in str(message.blocks[-1])
    assert "ada@desk takes care of it until" in message.replies[0].text
    assert trail(driver) == [("ada@desk", "acknowledge", "I look at it")]
    unacknowledge(driver.store, Rules(), known.alert_id, ADA, driver.now)
    driver.run(61)
    driver.settle()
    assert "Acknowledged" not in str(message.blocks[-1])
    assert "no longer takes care" in message.replies[1].text
    with pytest.raises(AlertRefused, match="is not acknowledged"):
        unacknowledge(driver.store, Rules(), known.alert_id, ADA, driver.now)


@pytest.mark.parametrize(
    ("alert_id", "lasts", "problem"),
    [("ffffffff", 1, "there is no alert"), ("", 1, "there is no alert"), (None, 0, "lasts from 1 minute")],
)
def test_a_wrong_acknowledgement_is_refused(drive, alert_id, lasts, problem):
    driver = opened(drive)
    alert_id = the_alert(driver).alert_id if alert_id is None else alert_id
    with pytest.raises(AlertRefused, match=problem):
        acknowledge(driver.store, Rules(), alert_id, ADA, timedelta(hours=lasts), driver.now)
    assert trail(driver) == []


def test_a_resolved_alert_needs_nobody(drive):
    driver = opened(drive)
    known = the_alert(driver)
    driver.run(16 * 60)
    with pytest.raises(AlertRefused, match="is resolved"):
        acknowledge(driver.store, Rules(), known.alert_id, ADA, timedelta(hours=1), driver.now)


def test_two_people_at_once_while_the_guardian_works(drive, slack):
    driver = opened(drive)
    known, refused = the_alert(driver), []

    def ada(name):
        try:
            acknowledge(driver.store, Rules(), known.alert_id, Actor(name), timedelta(hours=1), driver.now)
        except AlertRefused as exc:
            refused.append(exc)

    people = [threading.Thread(target=ada, args=(f"p{number}",)) for number in range(4)]
    for person in people:
        person.start()
    for _ in range(5):
        driver.die(1)
        driver.run(1)
    for person in people:
        person.join()
    driver.run(120)
    driver.settle()
    done = [entry for entry in trail(driver) if entry[1] == "acknowledge"]
    assert len(done) + len(refused) == 4
    assert done
    assert the_alert(driver).total == 17
    (message,) = slack.in_channel("#alerts")
    assert sum("takes care of it" in reply.text for reply in message.replies) == len(done)


def test_a_silence_mutes_a_task_and_ends_with_a_summary(drive, slack):
    driver = drive()
    driver.die(1)
    made = new_silence(driver.store, wanted(driver), [TASK], now=driver.now)
    driver.die(49)
    driver.run()
    driver.run(60)
    assert slack.in_channel("#alerts") == []
    driver.run(3600)
    driver.settle()
    (message,) = slack.in_channel("#alerts")
    assert "50 dead letters" in message.text
    with pytest.raises(AlertRefused, match="no silence that lasts"):
        end_silence(driver.store, made.id, ADA, driver.now)


def test_a_silence_is_ended_by_somebody(drive, slack):
    driver = opened(drive)
    made = new_silence(driver.store, wanted(driver, "shop.*"), [TASK], now=driver.now)
    driver.run(1)
    driver.settle()
    (message,) = slack.in_channel("#alerts")
    assert "Silenced until" in str(message.blocks[-1])
    driver.die(100)
    driver.run(310)
    assert len(message.replies) == 1
    end_silence(driver.store, made.id[:6], ADA, driver.now)
    driver.run(1)
    driver.settle()
    assert "The silence has ended, and it went on: 100 further failures meanwhile" in message.replies[-1].text
    assert message.replies[-1].broadcast
    assert [entry[1] for entry in trail(driver)] == ["unsilence", "silence"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"reason": "  "}, "needs a reason"),
        ({"until": timedelta(0)}, "still to come"),
        ({"until": timedelta(hours=-1)}, "still to come"),
        ({"until": timedelta(days=8)}, "7 d at most"),
        ({"task": "shop.OnboardingMail"}, "did you mean shop.OnboardingEmail"),
        ({"task": "nobody.*"}, "no task"),
    ],
)
def test_a_wrong_silence_is_refused_with_the_reason(drive, change, problem):
    driver = drive()
    until = driver.now + change.get("until", timedelta(hours=1))
    one = replace(wanted(driver), **{**change, "until": until})
    with pytest.raises(AlertRefused, match=problem):
        new_silence(driver.store, one, [TASK], now=driver.now)
    assert trail(driver) == []


def test_nobody_acknowledges_so_the_next_are_asked(drive, slack):
    steps = [{"after": "30m", "channel": "#everybody"}, {"after": "15m", "mention": "<@U012AB3CD>"}]
    driver = opened(drive, 1000, escalation=steps)
    for _ in range(31):
        driver.die(1)
        driver.run(60)
        driver.settle(0)
    (message,) = slack.in_channel("#alerts")
    assert message.replies[0].text.startswith("<@U012AB3CD> OnboardingEmail (production): Nobody has acknowledged it")
    assert message.replies[0].broadcast
    (wider,) = slack.in_channel("#everybody")
    assert "Nobody has acknowledged it for 30 min" in wider.text
    assert f"Alert {the_alert(driver).alert_id}" in wider.text
    # the period's message is still the one in its own channel
    driver.die(5)
    driver.run(61)
    driver.settle(0)
    assert "1,036 dead letters" in message.text
    assert "1,036" not in wider.text


def test_five_hundred_tasks_that_fail_at_once_are_one_message(drive, slack):
    driver = drive()
    for number in range(500):
        driver.die(2, f"shop.task{number:03}")
    driver.run()
    driver.run(30)
    driver.settle()
    (message,) = slack.in_channel()
    assert message.blocks[0]["text"]["text"] == "500 tasks fail: 1,000 dead letters (production)"
    assert "task000 2" in message.text
    driver.die(1, "shop.late")
    driver.run(30)
    driver.run(61)
    driver.settle()
    assert len(slack.in_channel()) == 1
    assert message.blocks[0]["text"]["text"].startswith("501 tasks fail")
    driver.run(16 * 60)
    driver.settle()
    assert len(slack.in_channel()) == 1
    assert "over" in message.blocks[0]["text"]["text"]


def test_two_guardians_make_one_digest(drive, slack, store):
    first = drive()
    second = drive()
    for number in range(30):
        first.die(1, f"shop.task{number:03}")
    first.run()
    second.now = first.now = first.now + timedelta(seconds=30)
    both = [threading.Thread(target=one.run) for one in (first, second)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    first.settle()
    assert len(slack.in_channel()) == 1


def test_ten_thousand_letters_within_a_quarter_of_an_hour_are_a_few_messages_each_with_a_reason(drive, slack):
    driver = drive()
    for _ in range(30):
        driver.die(334)
        driver.run()
        driver.run(30)
        driver.settle(0)
    (message,) = slack.in_channel()
    loud = [reply for reply in message.replies if reply.broadcast]
    assert the_alert(driver).total == 10_020
    assert 1 + len(loud) <= 12
    assert all("It got worse" in reply.text for reply in loud)


def test_a_condition_is_an_alert_too(drive, slack):
    driver = drive()

    def change(ref_id, holds):
        words = "The guardian's spool grows: 12 files" if holds else ""
        return Condition(ref_id, "spool_growing", "production", OWN_HEALTH, driver.now, holds, words)

    with driver.store.begin() as conn:
        alert.record(conn, [change("c1", True), change("c1", True)])
    driver.run()
    driver.run(30)
    driver.settle()
    (message,) = slack.in_channel()
    assert message.blocks[0]["text"]["text"] == "celery-guardrails: spool grows (production)"
    assert "12 files, since" in message.text
    with driver.store.begin() as conn:
        alert.record(conn, [change("c2", False)])
    driver.run(60)
    driver.run(60)
    driver.settle()
    assert "over" in message.blocks[0]["text"]["text"]
    assert "It is over." in message.replies[0].text


def test_a_tasks_own_threshold_and_its_wish_for_none(drive, slack):
    driver = drive()
    few = TaskAlerts(own={"dead_letter": DeadLetterThreshold(count=5, within=timedelta(minutes=5))})
    words = {"shop.few": (few, timedelta(0)), "shop.never": (TaskAlerts(muted=True), timedelta(0))}
    driver.service._task_alerts = lambda task: words.get(task, (None, timedelta(0)))
    driver.die(4, "shop.few")
    driver.die(100, "shop.never")
    driver.run()
    driver.run(30)
    assert slack.in_channel() == []
    driver.die(1, "shop.few")
    driver.run()
    driver.settle()
    assert [message.blocks[0]["text"]["text"] for message in slack.in_channel()] == ["few: 5 dead letters (production)"]


def test_a_sink_without_threads_is_not_told_who_takes_care(drive, slack):
    pager = MemorySink(can_edit=False)
    driver = drive(sink=pager)
    driver.die(12, "shop.other")
    driver.run(flush=True)
    (other,) = [row for row in rows(driver) if row.task == "shop.other"]
    alert_id = AlertGroup.from_payload(other.data).alert_id
    acknowledge(driver.store, Rules(can_edit=True), alert_id, ADA, timedelta(hours=1), driver.now)
    driver.settle()
    assert len(pager.messages) == 1


def rows(driver):
    with driver.store.read() as conn:
        return alert.load_groups(conn, states=["pending", "open", "acknowledged", "quiet", "resolved"])
