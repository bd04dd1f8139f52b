"""What Celery's own report shows of our settings: what is known and no secret. An application reads what it wrote."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from celery import Celery
from pydantic import SecretStr

from celery_guardrails import Policy
from celery_guardrails.app.config_report import hide_settings, shown_settings
from celery_guardrails.settings import SlackSettings, StoreSettings, load_settings, sections

MASKED = "[redacted]"
RAW: dict[str, Any] = {
    "environment": "staging",
    "store": {"url": "postgresql://ada:hush@db/shop"},
    "slack": {"token": "xoxb-hush", "webhook_url": "https://example.com/hush", "channel": "#a", "proxy": "http://hush"},
    "policies": {"billing.*": {"max_attempts": 3, "runbook": "https://ada:hush@wiki/x"}, "x": Policy(owner="ops")},
    "guard": ["vendor.*"],
    "store_url": "postgresql://db/hush",
    "slak": {"token": "hush"},
    "dead_letter": {"queue": "dead", "queue_arguments": {"x-password": "hush"}, "spol_dir": "hush"},
}


def app_with(settings: object) -> Celery:
    app = Celery("shop", set_as_current=False)
    app.conf.guardrails = settings
    return app


def test_what_is_known_and_no_secret_is_shown() -> None:
    shown = shown_settings(RAW)
    assert (shown["environment"], shown["guard"]) == ("staging", ["vendor.*"])
    assert shown["store"] == {"url": MASKED}
    assert shown["slack"] == {"token": MASKED, "webhook_url": MASKED, "channel": "#a", "proxy": MASKED}
    assert shown["policies"]["billing.*"]["max_attempts"] == 3
    assert (shown["store_url"], shown["slak"]) == (MASKED, MASKED)
    assert shown["dead_letter"] == {"queue": "dead", "queue_arguments": {"x-password": MASKED}, "spol_dir": MASKED}
    assert "hush" not in repr(shown)
    assert "hush" not in json.dumps(shown)


@pytest.mark.parametrize("raw", ["postgresql://hush", 7, ["hush"], SecretStr("hush")])
def test_what_is_no_dict_is_not_shown(raw: object) -> None:
    assert shown_settings(raw) == MASKED


def test_sections_may_be_objects() -> None:
    raw = {"store": StoreSettings(url="sqlite:///hush"), "slack": SlackSettings(token="hush", channel="#a")}
    shown = shown_settings(raw)
    assert (shown["store"], shown["slack"]["token"], shown["slack"]["channel"]) == ({"url": MASKED}, MASKED, "#a")
    assert shown["slack"]["webhook_url"] is None
    assert "hush" not in repr(raw["store"])


def test_every_setting_that_holds_a_secret_is_hidden() -> None:
    """A field of pydantic's secret type that is added later is hidden, or this fails."""
    for section, fields in sections().items():
        for name, info in fields.items():
            if "SecretStr" in str(info.annotation):
                assert shown_settings({section: {name: "hush"}}) == {section: {name: MASKED}}


def test_celery_shows_it_and_the_application_reads_what_it_wrote() -> None:
    app = app_with(RAW)
    report = app.bugreport()
    assert "#a" in report
    assert "hush" not in report
    assert "hush" not in str(app.conf.table(with_defaults=True))
    assert app.conf.table(False, censored=False)["guardrails"] == app.conf.guardrails == RAW
    assert pickle.loads(pickle.dumps(app.conf.changes))["guardrails"]["store"] == RAW["store"]
    good = {key: RAW[key] for key in ("environment", "store", "slack", "guard")}
    assert load_settings(app_with(good).conf.guardrails, {}).store.url == RAW["store"]["url"]
    assert "hush" not in repr(load_settings(good, {}))


def test_a_setting_of_another_name_is_left_to_celery() -> None:
    app = app_with(RAW)
    app.conf.update(not_our_guardrail={"url": "x"}, task_routes={"a": {"queue": "q"}})
    assert app.conf.table()["not_our_guardrail"] == {"url": "x"}


def test_doing_it_again_changes_nothing() -> None:
    from celery.app.utils import Settings as CelerySettings

    table = CelerySettings.table
    hide_settings()
    assert CelerySettings.table is table
