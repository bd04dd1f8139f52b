"""Which route an alert takes, what a destination may be, and that no URL of one is ever shown."""

from __future__ import annotations

import sys
import types

import pytest
from pydantic import SecretStr

from celery_guardrails.alerts.route import destination_of
from celery_guardrails.alerts.sinks.build import build_sinks, sink_faults, unreachable_channels
from celery_guardrails.alerts.sinks.own import OwnSink
from celery_guardrails.alerts.sinks.several import LOG, Place
from celery_guardrails.alerts.sinks.slack import SlackSink
from celery_guardrails.app.config_report import shown_settings
from celery_guardrails.destination import Destination, Means
from celery_guardrails.errors import ConfigurationError
from celery_guardrails.settings import AlertSettings, load_settings

URL = "json://ada:hunter2xyz@127.0.0.1:1/t0ken"


def routes(*given):
    return AlertSettings(routes=given).routes


def chosen(given, task="shop.mail", owner=None, severity="error"):
    found = destination_of(routes(*given), task=task, owner=owner, severity=severity)
    return found and found.name


@pytest.mark.parametrize(
    ("given", "where", "expected"),
    [
        ([], {}, None),
        ([{"to": "#a"}], {}, "#a"),
        ([{"task": "shop.*", "to": "#a"}, {"to": "#b"}], {}, "#a"),
        ([{"task": "Shop.*", "to": "#a"}, {"to": "#b"}], {}, "#b"),
        ([{"task": "*.mail", "owner": "growth", "to": "#a"}, {"to": "#b"}], {}, "#b"),
        ([{"task": "*.mail", "owner": "growth", "to": "#a"}, {"to": "#b"}], {"owner": "growth"}, "#a"),
        ([{"severity": "critical", "to": "#a"}], {"severity": "critical"}, "#a"),
        ([{"severity": "critical", "to": "#a"}], {}, None),
        ([{"to": "#first"}, {"task": "shop.mail", "to": "#exact"}], {}, "#first"),
    ],
)
def test_the_first_route_that_matches_in_all_its_keys(given, where, expected):
    assert chosen(given, **where) == expected


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("#payments", Means.SLACK),
        ("C0123456789", Means.SLACK),
        ("slack", Means.SLACK),
        ("log", Means.LOG),
        ("sentry", Means.SENTRY),
        ("mailto://ada:secret@example.com", Means.APPRISE),
        ("shop.alerts.Pager", Means.OWN),
    ],
)
def test_what_a_destination_may_be(text, means):
    (route,) = routes({"to": text})
    assert route.to.means is means


def test_urls_are_told_apart_and_never_shown():
    one, two = routes({"to": URL}, {"to": f"{URL}2"})
    assert one.to.name != two.to.name
    assert one.to.name == Destination(Means.APPRISE, SecretStr(URL)).name
    assert one.to.name.startswith("apprise json ")
    for shown in (one.to.name, repr(one), str(two), str(shown_settings({"alerts": {"routes": [{"to": URL}]}}))):
        assert "hunter2xyz" not in shown
        assert "t0ken" not in shown


WRONG = [
    ({"routes": [{"tsak": "x", "to": URL}]}, "alerts.routes.0.tsak", "did you mean task?"),
    ({"routes": [{"to": "log"}, {"to": URL.replace("//", "/")}]}, "alerts.routes.1.to", "apprise URL"),
    ({"routes": [{"to": "slak"}]}, "alerts.routes.0.to", "did you mean 'slack'?"),
    ({"routes": {"to": URL}}, "alerts.routes", "is of type dict, not a list"),
    ({"routes": [URL]}, "alerts.routes.0", "is of type str, not a dict"),
    ({"routes": [{"task": "x"}]}, "alerts.routes.0.to", "is missing"),
    ({"routes": [{"severity": "fatal", "to": URL}]}, "alerts.routes.0.severity", "is not one of"),
    ({"routes": [{"task": "", "to": URL}]}, "alerts.routes.0.task", "is empty"),
    ({"routes": [{"to": 7}]}, "alerts.routes.0.to", "is of type int, not text"),
    ({"fallback": f"{URL} x"}, "alerts.fallback", "is no place where alerts can go"),
    ({"heartbeat_url": URL}, "alerts.heartbeat_url", "does not begin with https:// or http://"),
]


@pytest.mark.parametrize(("alerts", "key", "words"), WRONG)
def test_a_wrong_route_is_named_and_no_url_is_quoted(alerts, key, words):
    with pytest.raises(ConfigurationError) as error:
        load_settings({"alerts": alerts}, {})
    assert f"{key} = " in str(error.value)
    assert words in str(error.value)
    assert "hunter2xyz" not in str(error.value)


def settings(*given, **more):
    return load_settings({"alerts": {"routes": given, **more.pop("alerts", {})}, **more}, {})


class Pager:
    def send(self, alert):
        """Do nothing."""


class Mute:
    """Has no `send`."""


class Broken(Pager):
    def __init__(self):
        raise ValueError("password=hunter2xyz")


@pytest.fixture(autouse=True)
def module(monkeypatch):
    found = types.ModuleType("shop_sinks")
    for each in (Pager, Mute, Broken):
        setattr(found, each.__name__, each)
    monkeypatch.setitem(sys.modules, "shop_sinks", found)


def test_every_sink_that_is_named_is_made_once():
    made = build_sinks(
        settings(
            {"task": "a", "to": "shop_sinks.Pager"}, {"task": "b", "to": URL}, {"task": "c", "to": "#c"},
            {"task": "d", "to": "sentry"}, {"task": "e", "to": "slack"}, {"task": "f", "to": "shop_sinks.Pager"},
            slack={"token": "xoxb-x", "channel": "#alerts"}, alerts={"fallback": URL},
        )
    )  # fmt: skip
    assert isinstance(made.by_name["shop_sinks.Pager"], OwnSink)
    assert isinstance(made.default, SlackSink)
    places = {each: made.route(task=each, owner=None, severity="error") for each in "abcdefg"}
    apprise = made.fallback
    assert apprise.sink.startswith("apprise json ")
    assert places == {
        "a": Place("shop_sinks.Pager"), "b": apprise, "c": Place("slack", "#c"), "d": Place("sentry"),
        "e": Place("slack"), "f": Place("shop_sinks.Pager"), "g": Place("slack"),
    }  # fmt: skip
    assert set(made.by_name) == {"log", "slack", "sentry", "shop_sinks.Pager", apprise.sink}
    assert made.can_edit


def test_a_channel_without_a_token_is_where_all_others_go():
    given = settings({"to": "#c"}, alerts={"fallback": "#d"})
    assert unreachable_channels(given) == ["#c", "#d"]
    made = build_sinks(given)
    assert made.route(task="a", owner=None, severity="error") == LOG == made.fallback
    assert not made.can_edit
    assert unreachable_channels(settings({"to": "#c"}, slack={"token": "xoxb-x", "channel": "#alerts"})) == []


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("shop_sinks.Pagr", "AttributeError"),
        ("no_such_module.Pager", "No module named 'no_such_module'"),
        ("shop_sinks.Mute", "has no method `send(self, alert)`"),
        ("shop_sinks.Broken", "ValueError"),
        ("nosuch://ada:hunter2xyz@example.com", "apprise does not know this URL"),
    ],
)
def test_a_sink_that_cannot_be_made_is_a_fault_of_its_setting(to, words):
    given = settings({"to": "log"}, {"to": to}, alerts={"fallback": to})
    found = sink_faults(given)
    assert [fault.setting for fault in found] == ["alerts.routes.1.to", "alerts.fallback"]
    assert words in str(found[0])
    assert "hunter2xyz" not in str(found)
    with pytest.raises(ConfigurationError):
        build_sinks(given)


def test_without_apprise_the_fault_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    (found,) = sink_faults(settings({"to": URL}))
    assert 'apprise is not installed (pip install "celery-guardrails[apprise]")' in str(found)
