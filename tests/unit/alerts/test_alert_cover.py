"""Acknowledged, silenced, escalated, digested: who is disturbed, when, and by what name."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from celery_guardrails.alerts.cover import members_of, silence_of, ticks
from celery_guardrails.alerts.engine import next_due, step
from celery_guardrails.alerts.event import Acknowledged, Tick, Unacknowledged
from celery_guardrails.alerts.group import AlertGroup, GroupState
from celery_guardrails.alerts.intent import Kind, Notice
from celery_guardrails.alerts.rules import EscalationStep, Rules
from celery_guardrails.policy.alert import TaskAlerts
from celery_guardrails.store.silence import Silence
from tests.unit.alerts.alert_play import GROWTH, OPENED, RESOLVED, T0, TOKEN, WEBHOOK, WORSE, Play, death, opened

REMINDED = [(Kind.EDIT, Notice.REMINDER), (Kind.REPLY, Notice.REMINDER)]
ESCALATED = [(Kind.EDIT, Notice.ESCALATED), (Kind.REPLY, Notice.ESCALATED)]
ACKNOWLEDGED = [(Kind.EDIT, Notice.ACKNOWLEDGED), (Kind.REPLY, Notice.ACKNOWLEDGED)]
STEPS = (EscalationStep(timedelta(minutes=15), mention="<@U1>"), EscalationStep(timedelta(minutes=30), channel="#all"))
LOUD = Rules(escalation=STEPS)


def acknowledged(play: Play, hours: float = 4) -> list:
    return play.happen(Acknowledged("ada", play.now + timedelta(hours=hours)))


def going_on(play: Play, seconds: float, every: float = 600, **cover) -> list:
    """A failure every ten minutes, and all that was said."""
    said, ends = [], play.now + timedelta(seconds=seconds)
    while play.now < ends:
        said += play.die().tick(1, **cover) + play.tick(every - 1, **cover)
    return [each for each in said if each not in GROWTH]


# reminders and acknowledgements


def test_every_four_hours_people_are_reminded_while_it_goes_on():
    play = opened(count=1000)
    assert going_on(play, 8 * 3600 + 600) == REMINDED * 2
    assert play.tick(5 * 3600) == RESOLVED


def test_nobody_is_reminded_of_what_goes_on_no_more():
    play = opened(Rules(quiet=timedelta(hours=24)), count=10)
    assert play.tick(20 * 3600) == []


def test_an_acknowledgement_is_a_reply_in_the_thread_and_stops_reminders():
    play = opened(count=1000)
    assert acknowledged(play, hours=6) == ACKNOWLEDGED
    assert not play.said[-1][1].broadcast
    assert play.said[-1][1].facts["by"] == "ada"
    assert play.group.state is GroupState.ACKNOWLEDGED
    assert going_on(play, 5 * 3600) == []


def test_it_ends_when_its_time_is_over_and_it_still_fails():
    play = opened(count=1000)
    acknowledged(play)
    said = going_on(play, 4.5 * 3600)
    assert play.group.acknowledged is None
    assert said == REMINDED


def test_it_lasts_past_its_time_while_nothing_fails():
    play = opened(Rules(quiet=timedelta(hours=8)))
    acknowledged(play)
    play.tick(7 * 3600)
    assert play.group.acknowledged is not None
    play.die().tick(1)
    assert play.group.acknowledged is None


def test_worse_is_said_though_it_is_acknowledged():
    play = opened()
    acknowledged(play)
    play.die(20)
    assert play.tick(300) == WORSE
    assert play.group.acknowledged is not None


def test_it_is_void_when_severity_rises():
    play = opened()
    acknowledged(play)
    play.die(severity="critical")
    assert play.tick(1) == [(Kind.EDIT, Notice.SEVERITY_ROSE), (Kind.REPLY, Notice.SEVERITY_ROSE)]
    assert play.group.acknowledged is None
    assert play.group.state is GroupState.OPEN


def test_it_can_be_taken_back():
    play = opened()
    acknowledged(play)
    taken = play.happen(Unacknowledged("ada"))
    assert taken == [(Kind.EDIT, Notice.UNACKNOWLEDGED), (Kind.REPLY, Notice.UNACKNOWLEDGED)]
    assert play.group.state is GroupState.OPEN
    assert play.happen(Unacknowledged("ada")) == []


def test_a_resolved_alert_is_not_acknowledged():
    play = opened()
    assert play.tick(15 * 60) == RESOLVED
    assert acknowledged(play) == []
    assert play.group.acknowledged is None


# escalation


def test_nobody_acknowledges_so_the_next_are_asked():
    play = opened(LOUD, count=1000)
    said = going_on(play, 31 * 60, every=60)
    assert said == [*ESCALATED, (Kind.ESCALATION, Notice.ESCALATED)]
    first, second = (intent for _, intent in play.said if intent.notice is Notice.ESCALATED and intent.is_loud)
    assert (first.broadcast, first.facts["mention"], first.facts["after"]) == (True, "<@U1>", 900)
    assert second.facts["channel"] == "#all"


def test_the_steps_are_repeated_twice_at_most():
    play = opened(LOUD, count=100_000)
    going_on(play, 24 * 3600)
    assert sum(intent.notice is Notice.ESCALATED and intent.is_loud for _, intent in play.said) == 6


def test_they_are_not_repeated_where_nothing_failed_since():
    play = opened(Rules(escalation=STEPS, quiet=timedelta(hours=24)), count=1000)
    said = [intent for _ in range(20) for intent in play.tick(600)]
    assert said == [*ESCALATED, (Kind.ESCALATION, Notice.ESCALATED)]


@pytest.mark.parametrize("stop", ["acknowledge", "silence", "resolve"])
def test_it_stops_at_each_of_these(stop):
    play, cover = opened(LOUD, count=1000), {}
    if stop == "acknowledge":
        acknowledged(play)
    elif stop == "silence":
        cover["silenced_until"] = play.now + timedelta(days=1)
    else:
        assert play.tick(15 * 60) == RESOLVED
        assert next_due(play.group, play.now, LOUD) is None
        assert play.tick(3600) == []
        return
    assert not any(notice is Notice.ESCALATED for _, notice in going_on(play, 3600, **cover))


def test_the_steps_are_those_of_when_it_opened():
    play = opened(LOUD, count=1000)
    play.rules = TOKEN
    assert (Kind.REPLY, Notice.ESCALATED) in going_on(play, 16 * 60, every=60)


def test_a_webhook_escalates_by_a_message_of_its_own():
    play = opened(replace(LOUD, can_edit=False), count=1000)
    assert (Kind.ESCALATION, Notice.ESCALATED) in going_on(play, 16 * 60, every=60)


# silences


def silenced(play: Play, hours: float = 1) -> dict:
    return {"silenced_until": play.now + timedelta(hours=hours)}


def test_a_silenced_group_opens_unseen_and_is_summed_up_at_the_end():
    play = Play()
    cover = silenced(play)
    play.die(12)
    assert play.tick(30, **cover) == []
    assert play.group.state is GroupState.OPEN
    assert going_on(play, 3000, **cover) == []
    assert play.tick(1) == [(Kind.POST, Notice.SILENCE_ENDED)]
    assert play.said[-1][1].facts["meanwhile"] == play.group.total == 17
    assert play.tick(1) == []


def test_a_silence_of_an_open_group_is_a_reply_in_its_thread():
    play = opened()
    cover = silenced(play)
    assert play.tick(1, **cover) == [(Kind.EDIT, Notice.SILENCED), (Kind.REPLY, Notice.SILENCED)]
    assert not play.said[-1][1].broadcast
    play.die(100)
    assert play.tick(600, **cover) == GROWTH
    ended = play.tick(3600)
    assert ended == [(Kind.EDIT, Notice.SILENCE_ENDED), (Kind.REPLY, Notice.SILENCE_ENDED)]
    assert play.said[-1][1].broadcast
    assert play.said[-1][1].facts["meanwhile"] == 100


def test_a_silence_in_which_nothing_failed_ends_silently():
    play = opened()
    play.tick(1, **silenced(play))
    assert all(kind is Kind.EDIT for kind, _ in play.tick(600))


def test_what_failed_in_a_silence_is_not_resolved_before_its_end():
    play = Play()
    cover = silenced(play, hours=5)
    play.die(3)
    assert play.tick(30, **cover) == []
    assert play.tick(4 * 3600, **cover) == []
    assert play.group.state is GroupState.QUIET
    assert play.tick(3600) == [(Kind.POST, Notice.SILENCE_ENDED)]
    assert play.tick(60) == RESOLVED


def test_a_muted_task_only_counts():
    play = Play(TOKEN.of_task(TaskAlerts(muted=True), timedelta(0)))
    play.die(500)
    assert play.tick(30) == []
    assert going_on(play, 24 * 3600) == []
    assert play.group.total > 600
    assert play.tick(3600) == []
    assert play.group.state is GroupState.IDLE


def made(task: str = "shop.*", **fields) -> Silence:
    known = {"id": "s", "environment": "production", "until": T0 + timedelta(hours=1), "reason": "r"}
    return Silence(task=task, created_by="ada", created_at=T0, **{**known, **fields})


@pytest.mark.parametrize(
    ("silence", "covers"),
    [
        (made(), True),
        (made("shop.OnboardingEmail"), True),
        (made("Shop.*"), False),
        (made("billing.*"), False),
        (made(environment="staging"), False),
        (made(queue="mail"), True),
        (made(queue="other"), False),
        (made(fingerprint="v1:b"), False),
    ],
)
def test_what_a_silence_covers(silence, covers):
    group = AlertGroup.idle(death()).add(death(queue="mail"), T0)
    assert (silence_of(group, [silence]) is not None) is covers


def test_a_silence_of_one_error_covers_a_group_that_has_no_other():
    only = AlertGroup.idle(death()).add(death(fingerprint="v1:b"), T0)
    both = only.add(death(2, fingerprint="v1:a"), T0)
    silence = made(fingerprint="v1:b")
    assert ticks([only], T0, lambda _: TOKEN, [silence])[only.key].inhibited
    assert not ticks([both], T0, lambda _: TOKEN, [silence])[both.key].inhibited


def test_an_error_that_is_not_silenced_is_told_at_once():
    play = Play()
    play.die(3, fingerprint="v1:b")
    assert play.tick(30, inhibited=True) == []
    play.die(fingerprint="v1:a")
    assert play.tick(60) == OPENED


# storms


def pending(number: int, count: int = 1) -> AlertGroup:
    group = AlertGroup.idle(death(task=f"shop.task{number}"))
    for each in range(count):
        group, _ = step(group, death(each, task=f"shop.task{number}"), T0, TOKEN)
    return group


def play_all(groups: list[AlertGroup], now, rules: Rules = TOKEN):
    told = ticks(groups, now, lambda _: rules)
    stepped = [step(group, told[group.key], now, rules) for group in groups]
    return [group for group, _ in stepped], [intent for _, intents in stepped for intent in intents]


def test_five_hundred_tasks_that_fail_at_once_are_one_digest():
    now = T0 + timedelta(seconds=30)
    groups, intents = play_all([pending(number, 1 + number % 3) for number in range(500)], now)
    assert intents == []
    assert all(group.digested and group.state is GroupState.OPEN for group in groups)
    members = members_of(groups)
    assert (members.groups, members.total, len(members.largest)) == (500, 999, 10)
    digest, _ = step(AlertGroup.digest("production"), members, now, TOKEN)
    digest, said = step(digest, Tick(), now, TOKEN)
    assert [(intent.kind, intent.notice) for intent in said] == [(Kind.POST, Notice.DIGEST)]
    # more of the same within minutes joins the digest
    further, intents = play_all([*groups, digest, pending(501)], now + timedelta(seconds=30))
    assert [intent for intent in intents if intent.is_loud] == []
    assert further[-1].digested


def test_ten_groups_are_ten_messages():
    groups, intents = play_all([pending(number) for number in range(10)], T0 + timedelta(seconds=30))
    assert [intent.notice for intent in intents] == [Notice.OPENED] * 10
    # the eleventh within five minutes is a storm
    _, intents = play_all([*groups, pending(11)], T0 + timedelta(seconds=60))
    assert intents == []
    _, intents = play_all([*groups, pending(11)], T0 + timedelta(minutes=6))
    assert [intent.notice for intent in intents if intent.is_loud] == [Notice.OPENED]


def test_groups_of_other_environments_are_no_part_of_it():
    groups = [replace(pending(number), environment=f"e{number}") for number in range(20)]
    _, intents = play_all(groups, T0 + timedelta(seconds=30))
    assert len(intents) == 20


def test_a_digested_group_is_told_of_by_itself_when_it_fails_again():
    group = play_all([pending(number) for number in range(11)], T0 + timedelta(seconds=30))[0][0]
    resolved, said = step(group, Tick(), T0 + timedelta(minutes=20), TOKEN)
    assert (resolved.state, said) == (GroupState.RESOLVED, [])
    again, _ = step(resolved, death(9, task=group.task), T0 + timedelta(minutes=25), TOKEN)
    _, said = step(again, Tick(), T0 + timedelta(minutes=26), TOKEN)
    assert [(intent.kind, intent.notice) for intent in said] == [(Kind.POST, Notice.REOPENED)]


def test_a_digest_that_grows_says_so_and_is_resolved():
    now = T0 + timedelta(seconds=30)
    groups, _ = play_all([pending(number) for number in range(20)], now)
    digest = AlertGroup.digest("production")
    for event in (members_of(groups), Tick()):
        digest, _ = step(digest, event, now, TOKEN)
    more = members_of([replace(group, total=10) for group in groups])
    digest, _ = step(digest, more, now, TOKEN)
    digest, said = step(digest, Tick(), now + timedelta(minutes=5), TOKEN)
    assert [intent.notice for intent in said] == [Notice.WORSE_TOTAL] * 2
    digest, said = step(digest, Tick(), now + timedelta(minutes=20), TOKEN)
    assert [intent.notice for intent in said] == [Notice.RESOLVED] * 2
    assert digest.state is GroupState.RESOLVED


def test_a_webhook_is_told_of_a_silences_end_too():
    play = Play(WEBHOOK)
    cover = silenced(play)
    play.die(2)
    assert play.tick(30, **cover) == []
    assert play.tick(3600) == [(Kind.POST, Notice.SILENCE_ENDED)]
