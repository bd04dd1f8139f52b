"""Several sinks in one poster: each alert goes by its route, follows its message, and no sink holds up another."""

from __future__ import annotations

import pytest

from celery_guardrails.alerts.sinks.build import build_sink
from celery_guardrails.alerts.sinks.memory import MemorySink
from celery_guardrails.alerts.sinks.several import Sinks
from celery_guardrails.errors import Trouble, Undelivered
from celery_guardrails.settings import AlertSettings, SlackSettings
from celery_guardrails.testing import Mode

POST = "chat.postMessage"


def routed(default, *further, fallback="log", **to):
    """Sinks with a route for each task, by its last name: `Mail="#mail"`."""
    routes = [{"task": f"*.{task}", "to": place} for task, place in to.items()]
    settings = AlertSettings(routes=routes, fallback=fallback)
    return Sinks(default, further, routes=settings.routes, fallback=settings.fallback)


def own(name, **able):
    return MemorySink(name=name, **able)


def titles(sink):
    return [kept.message.plain.partition("\n")[0] for kept in sink.messages.values()]


@pytest.fixture
def bot(slack):
    return build_sink(SlackSettings(token="xoxb-test", channel="#alerts", base_url=slack.base_url, timeout=1))


def test_each_alert_goes_by_its_route_and_the_rest_to_the_default(drive, slack, bot):
    pager = own("shop.Pager", can_edit=False, can_find=False)
    driver = drive(sink=routed(bot, pager, Mail="#mail", Bill="shop.Pager"))
    for task in ("a.Mail", "a.Bill", "a.Rest"):
        driver.die(task=task)
    driver.run(flush=True)
    driver.settle()
    assert [message.blocks[0]["text"]["text"][:4] for message in slack.in_channel("#mail")] == ["Mail"]
    assert [message.blocks[0]["text"]["text"][:4] for message in slack.in_channel("#alerts")] == ["Rest"]
    assert titles(pager) == ["Bill: 1 dead letter (production)"]


def test_owner_and_severity_have_to_match_too(drive):
    pager, rest = own("shop.Pager"), MemorySink()
    routes = [{"owner": "payments", "severity": "critical", "to": "shop.Pager"}]
    driver = drive(sink=Sinks(rest, [pager], routes=AlertSettings(routes=routes).routes))
    driver.die(task="a.One", owner="payments")
    driver.die(task="a.Two", owner="payments", severity="critical")
    driver.die(task="a.Three", severity="critical")
    driver.run(flush=True)
    assert titles(pager) == ["Two: 1 dead letter (production)"]
    assert sorted(titles(rest)) == ["One: 1 dead letter (production)", "Three: 1 dead letter (production)"]


def test_edits_and_replies_follow_their_message_whatever_the_routes_say_by_then(drive, slack, bot):
    driver = drive(sink=routed(bot, Mail="#mail"))
    driver.die(task="a.Mail")
    driver.run(flush=True)
    later = drive(sink=routed(bot, Mail="#elsewhere"))  # a new process, with other settings
    later.now, later.counter = driver.now, 100
    later.die(4, task="a.Mail")
    later.run(61)
    later.run(15 * 60)
    later.settle()
    (message,) = slack.in_channel("#mail")
    assert message.blocks[0]["text"]["text"] == "Mail: 5 dead letters (production), no new ones"
    assert len(message.replies) == 1
    assert slack.in_channel("#elsewhere") == []
    later.die(task="a.Mail")
    later.run(2 * 3600, flush=True)  # a new period: it goes by the routes of its own time
    assert len(slack.in_channel("#elsewhere")) == 1


def test_a_graver_letter_does_not_move_an_alert_that_is_open(drive):
    pager, rest = own("shop.Pager"), MemorySink()
    routes = [{"severity": "critical", "to": "shop.Pager"}]
    driver = drive(sink=Sinks(rest, [pager], routes=AlertSettings(routes=routes).routes))
    driver.die()
    driver.run(flush=True)
    driver.die(severity="critical")
    driver.run(61)
    assert titles(rest) == ["OnboardingEmail: 2 dead letters (production)"]
    assert pager.messages == {}


def test_a_sink_that_was_taken_out_of_the_settings_leaves_its_alerts_to_the_others(drive):
    pager, rest = own("shop.Pager"), MemorySink()
    driver = drive(sink=routed(rest, pager, Mail="shop.Pager"))
    driver.die(task="a.Mail")
    driver.run(flush=True)
    later = drive(sink=routed(rest))
    later.now, later.counter = driver.now, 100
    later.die(30, task="a.Mail")
    later.run(31 * 60)
    later.settle()
    assert titles(pager) == ["Mail: 1 dead letter (production)"]
    assert titles(rest) == ["Mail: 31 dead letters (production)"]


@pytest.mark.parametrize("trouble", [Trouble.UNAVAILABLE, Trouble.UNCERTAIN, Trouble.AUTH, Trouble.RATE_LIMITED])
def test_a_sink_that_is_down_holds_up_no_other(drive, trouble):
    down, well = own("shop.Down", can_find=False), MemorySink()
    down.trouble = [Undelivered(trouble, "down") for _ in range(1000)]
    driver = drive(sink=routed(well, down, Bad="shop.Down"), storm={"groups": 100})
    for number in range(40):
        driver.die(task=f"a{number}.Bad")
    driver.die(task="z.Good")
    report = driver.run(flush=True)
    assert titles(well) == ["Good: 1 dead letter (production)"]
    assert report.delivery.down == ("shop.Down",) or trouble is Trouble.RATE_LIMITED
    # one call has told enough: what waits for a sink that is down costs nothing
    assert len(down.trouble) >= 998


def test_each_sink_has_its_own_circuit(drive, slack, bot, caplog):
    pager = own("shop.Pager")
    driver = drive(sink=routed(bot, pager, Bill="shop.Pager"))
    slack.mode = Mode.INVALID_AUTH
    driver.die(task="a.Mail")
    driver.die(task="a.Bill")
    driver.run(flush=True)
    assert titles(pager) == ["Bill: 1 dead letter (production)"]
    assert driver.service.poster.well == {"slack": False, "log": True, "shop.Pager": True}
    driver.die(4, task="a.Bill")
    driver.run(61)
    assert titles(pager) == ["Bill: 5 dead letters (production)"]
    slack.mode = Mode.OK
    driver.settle()
    assert all(driver.service.poster.well.values())


def test_one_message_a_second_is_for_each_channel(drive, slack, bot):
    driver = drive(sink=routed(bot, Mail="#mail", Bill="#bill"))
    for task in ("a.Mail", "b.Mail", "a.Bill", "a.Rest"):
        driver.die(task=task)
    driver.run(flush=True)
    assert [len(slack.in_channel(each)) for each in ("#mail", "#bill", "#alerts")] == [1, 1, 1]
    driver.run(1)
    assert len(slack.in_channel("#mail")) == 2


def test_a_sink_that_cannot_edit_gets_what_is_worth_a_message(drive):
    pager = own("shop.Pager", can_edit=False, can_find=False)
    driver = drive(sink=routed(MemorySink(), pager, Bill="shop.Pager"))
    driver.die(task="a.Bill")
    driver.run(flush=True)
    driver.die(3, task="a.Bill")
    driver.run(61)  # growth: an edit
    assert titles(pager) == ["Bill: 1 dead letter (production)"]
    driver.die(30, task="a.Bill")
    driver.run(5 * 60)  # worse
    driver.run(15 * 60)  # resolved
    driver.settle()
    assert titles(pager) == [
        "Bill: 1 dead letter (production)",
        "Bill: 34 dead letters (production)",
        "Bill: 34 dead letters (production), no new ones",
    ]


def test_the_alert_has_its_facts(drive):
    pager = own("shop.Pager", can_edit=False)
    driver = drive(sink=routed(MemorySink(), pager, Bill="shop.Pager"))
    driver.die(2, task="a.Bill", owner="payments", severity="critical", runbook="https://wiki.example.com/bill")
    driver.run(flush=True)
    (kept,) = pager.messages.values()
    alert = kept.message.alert
    assert (alert.task, alert.owner, alert.severity, alert.letters) == ("a.Bill", "payments", "critical", 2)
    assert (alert.environment, alert.notice, alert.uid) == ("production", "opened", kept.message.post_uid)
    assert alert.reasons == {"attempts_exhausted": 2}
    assert alert.title == "Bill: 2 dead letters (production)"
    assert alert.text == kept.message.plain
    assert f"Alert {alert.id}" in alert.text
    assert alert.last_at == driver.now


class TestFallback:
    """What another sink than the log does where an alert's own sink does not take it."""

    @pytest.fixture
    def spare(self):
        return own("shop.Spare", can_edit=False)

    @pytest.mark.parametrize("word", ["invalid_auth", "not_in_channel", "something_new"])
    def test_it_gets_the_alert_once(self, drive, slack, bot, spare, word, caplog):
        slack.mode = word
        driver = drive(sink=routed(bot, spare, fallback="shop.Spare"))
        driver.die(3)
        driver.run(flush=True)
        for _ in range(5):
            driver.run(60)
        assert titles(spare) == ["OnboardingEmail: 3 dead letters (production)"]
        (kept,) = spare.messages.values()
        assert f"Posted here because slack did not take it: {word}" in kept.message.plain
        assert not [each for each in caplog.records if each.name == "celery_guardrails.alerts"]

    def test_it_is_no_home_for_later_messages(self, drive, slack, bot, spare):
        slack.mode = Mode.INVALID_AUTH
        driver = drive(sink=routed(bot, spare, fallback="shop.Spare"))
        driver.die(3)
        driver.run(flush=True)
        slack.mode = Mode.OK
        driver.run(61)
        driver.die(3)
        driver.run(61)
        driver.settle()
        (message,) = slack.in_channel("#alerts")
        assert message.blocks[0]["text"]["text"] == "OnboardingEmail: 6 dead letters (production)"
        assert len(spare.messages) == 1

    @pytest.mark.parametrize("trouble", [Trouble.UNAVAILABLE, Trouble.UNCERTAIN, Trouble.AUTH, Trouble.REFUSED])
    def test_where_it_takes_nothing_either_the_log_does(self, drive, slack, bot, spare, trouble, caplog):
        slack.mode = Mode.INVALID_AUTH
        spare.trouble = [Undelivered(trouble, "down")] * 1000
        driver = drive(sink=routed(bot, spare, fallback="shop.Spare"))
        for task in ("a.One", "b.Two"):
            driver.die(task=task)
        driver.run(flush=True)
        for _ in range(5):
            driver.run(60)
        logged = [each.getMessage() for each in caplog.records if each.name == "celery_guardrails.alerts"]
        assert sorted(text.partition("\n")[0] for text in logged) == [
            "One: 1 dead letter (production)",
            "Two: 1 dead letter (production)",
        ]

    def test_it_waits_as_long_as_it_is_asked_to(self, drive, slack, bot, spare):
        slack.mode = Mode.INVALID_AUTH
        spare.trouble = [Undelivered(Trouble.RATE_LIMITED, "slow down", 20)]
        driver = drive(sink=routed(bot, spare, fallback="shop.Spare"))
        driver.die()
        driver.run(flush=True)
        assert spare.messages == {}
        driver.run(21)
        assert len(spare.messages) == 1

    def test_a_channel_of_the_sink_that_refuses_is_no_fallback(self, drive, slack, bot, caplog):
        slack.mode = Mode.INVALID_AUTH
        driver = drive(sink=routed(bot, fallback="#spare"))
        driver.die()
        driver.run(flush=True)
        assert "OnboardingEmail: 1 dead letter (production)" in caplog.text
        assert driver.statuses("fallback") == {"sent": 1}

    def test_another_channel_is_a_fallback_for_a_sink_of_another_kind(self, drive, slack, bot):
        pager = own("shop.Pager", can_find=False)
        pager.trouble = [Undelivered(Trouble.REFUSED, "never")]
        driver = drive(sink=routed(bot, pager, Bill="shop.Pager", fallback="#spare"))
        driver.die(task="a.Bill")
        driver.run(flush=True)
        (message,) = slack.in_channel("#spare")
        assert "shop.Pager did not take it: never" in str(message.blocks[-1])


def test_a_channel_that_is_asked_later_gets_its_message_wherever_the_alert_itself_is(drive, slack, bot):
    pager = own("shop.Pager", can_edit=False, can_find=False)
    driver = drive(sink=routed(bot, pager, Bill="shop.Pager"), escalation=[{"after": "15m", "channel": "#everybody"}])
    for _ in range(20):
        driver.die(task="a.Bill")
        driver.run(60)
        driver.settle(0)
    (wider,) = slack.in_channel("#everybody")
    assert "Nobody has acknowledged it for 15 min" in wider.text
    before = len(titles(pager))
    driver.die(100, task="a.Bill")  # later messages go where the alert is, not where others were asked
    driver.run(600)
    driver.settle(0)
    assert len(titles(pager)) == before + 1
    assert len(slack.in_channel("#everybody")) == 1
    assert slack.in_channel("#alerts") == []


def test_without_a_bot_the_channel_that_is_asked_later_is_the_usual_sink(drive):
    pager, rest = own("shop.Pager", can_edit=False), MemorySink(can_edit=False)
    driver = drive(sink=routed(rest, pager, Bill="shop.Pager"), escalation=[{"after": "15m", "channel": "#everybody"}])
    for _ in range(20):
        driver.die(task="a.Bill")
        driver.run(60)
        driver.settle(0)
    (asked,) = [kept.message.plain for kept in rest.messages.values()]
    assert "Nobody has acknowledged it for 15 min" in asked
    assert not [kept for kept in pager.messages.values() if "Nobody has acknowledged" in kept.message.plain]
