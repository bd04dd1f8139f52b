from __future__ import annotations

from datetime import timedelta

import pytest

from celery_guardrails.errors import ConfigurationError
from celery_guardrails.policy import Policy
from celery_guardrails.settings import ENVIRONMENT_VARIABLES, Settings, SlackSettings, load_settings


def faults(raw, environ=None):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(raw, environ or {})
    return {fault.setting: fault for fault in caught.value.faults}


def test_every_fault_is_listed_at_once():
    found = faults(
        {
            "policy": {"jitter": 9},
            "policies": {"billing.*": {"max_atempts": 3, "max_attempts": 0}, "mail.*": 3},
            "dead_letter": {"max_payload": "much", "queue": ""},
            "slack": {"chanel": "#alerts"},
            "alerts": {"cooldown": "3 parsecs", "group_by": ("eror",)},
            "retention": {"ded": "5d", "dead": "long"},
            "redact": "password",
            "environment": 7,
            "dead_leter": {},
        }
    )
    assert set(found) == {
        "policy.jitter",
        "policies.billing.*.max_atempts",
        "policies.billing.*.max_attempts",
        "policies.mail.*",
        "dead_letter.max_payload",
        "dead_letter.queue",
        "slack.chanel",
        "alerts.cooldown",
        "alerts.group_by",
        "retention.ded",
        "retention.dead",
        "redact",
        "environment",
        "dead_leter",
    }
    assert all(fault.task is None for fault in found.values())


@pytest.mark.parametrize(
    ("raw", "key", "value", "hint"),
    [
        ({"slack": {"chanel": "#alerts"}}, "slack.chanel", "***", "did you mean channel?"),
        ({"channel": "#alerts"}, "channel", "***", "did you mean slack.channel?"),
        ({"dead_leter": {"queue": "x"}}, "dead_leter", "***", "did you mean dead_letter?"),
        (
            {"policies": {"billing.*": {"max_atempts": 3}}},
            "policies.billing.*.max_atempts",
            "***",
            "did you mean max_attempts?",
        ),
        ({"retention": {"ded": "5d"}}, "retention.ded", "***", "did you mean dead?"),
        ({"slack": {"zzzz": 1}}, "slack.zzzz", "***", "keys are token, channel, webhook_url"),
        ({"redact": "card"}, "redact", "'card'", "write ('card',)"),
        ({"redact_patterns": "(a"}, "redact_patterns", "'(a'", "write ('(a',)"),
    ],
)
def test_a_fault_names_key_value_and_the_nearest_right_spelling(raw, key, value, hint):
    fault = faults(raw)[key]
    assert fault.value == value
    assert hint in fault.suggestion


@pytest.mark.parametrize(
    "raw",
    [
        {"slack": {"tokn": "xoxb-secret"}},
        {"slack": {"token": ["xoxb-secret"], "channel": "#a"}},
        {"slack": {"token": "xoxb-secret"}},
        {"slack": "xoxb-secret"},
        {"slak": {"token": "xoxb-secret"}},
        {"slack_token": "xoxb-secret"},
        {"slack": {"webhook": "https://hooks.example/xoxb-secret"}},
        {"webhook_url": "https://hooks.example/xoxb-secret"},
        {"store": {"url": {"password": "xoxb-secret"}}},
        {"store": {"uri": "postgresql://me:xoxb-secret@db/x"}},
        {"store": "postgresql://me:xoxb-secret@db/x"},
        {"slack": {"proxy": {"url": "http://me:xoxb-secret@proxy"}}},
        {"store_url": "postgresql://me:xoxb-secret@db/x"},
        {"database_url": "xoxb-secret"},
        {"slack_hook": "https://hooks.slack.com/services/T/B/xoxb-secret"},
        {"alerts": {"hook": "xoxb-secret"}},
        {"dead_letter": {"brokr": "amqp://u:xoxb-secret@h", "queue_arguments": "amqp://u:xoxb-secret@h"}},
        {"policy": {"runbok": "xoxb-secret"}},
        {"policies": {"a.*": {"slack_hook": "xoxb-secret"}}},
        {"policies": {"a.*": "amqp://u:xoxb-secret@h"}},
        {"policy": "amqp://u:xoxb-secret@h"},
        {"policy": {"owner": {"password": "xoxb-secret"}}},
        {"policy": {"backoff": {"password": "xoxb-secret"}, "max_attempts": "token=xoxb-secret"}},
        {"environment": {"password": "xoxb-secret"}},
        {"alerts": {"cooldown": "amqp://u:xoxb-secret@h", "group_by": "password=xoxb-secret"}},
        {"redact": "amqp://u:xoxb-secret@h"},
        {"amqp://u:xoxb-secret@h": 1},
        {"retention": {"amqp://u:xoxb-secret@h": "5d"}},
        {"store": {"url": "postgresql://u:xoxb@secret:xoxb-secret@h/d"}},
        {"store": {"url": "postgresql://u:xoxb-secret@h:port/d"}},
        {"slack": {"webhook_url": "hooks.example/xoxb-secret"}},
        {"slack": {"webhook_url": "https://hooks.example/xoxb-secret and more"}},
        {"slack": {"webhook_url": "https://hooks.example/\nxoxb-secret"}},
        {"slack": {"token": "xoxb-secret\n", "channel": "#a"}},
        {"slack": {"token": "", "channel": "#a"}},
        {"slack": {"base_url": "ftp://u:xoxb-secret@slack.example"}},
        {"slack": {"proxy": "http://me:xoxb-secret@proxy\n"}},
        "xoxb-secret",
        ["xoxb-secret"],
    ],
    ids=str,
)
def test_a_secret_never_shows_in_a_fault(raw):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(raw, {})
    assert "xoxb-secret" not in str(caught.value)
    assert "xoxb-secret" not in repr(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("variable", sorted(ENVIRONMENT_VARIABLES))
def test_a_wrong_value_of_the_environment_never_shows(variable):
    environ = {variable: "hunter2 \x00", "GUARDRAILS_SLACK_WEBHOOK_URL": "hunter2"}
    with pytest.raises(ConfigurationError) as caught:
        load_settings({}, environ)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)


def test_the_error_of_a_webhook_says_what_is_wrong_with_it():
    fault = faults({"slack": {"webhook_url": "hooks.slack.com/services/x"}})["slack.webhook_url"]
    assert (fault.value, fault.problem) == ("***", "does not begin with https:// or http://")
    assert (
        "blank"
        in faults({"slack": {"webhook_url": "https://hooks.slack.com/services/x y"}})["slack.webhook_url"].problem
    )
    assert "line break" in faults({"slack": {"token": "xoxb-1\n", "channel": "#a"}})["slack.token"].problem
    assert "percent-encode" in faults({"store": {"url": "postgresql://u:p@ss@h/d"}})["store.url"].suggestion


def test_secrets_do_not_show_in_the_settings_either():
    settings = load_settings({"slack": {"token": "xoxb-secret", "channel": "#a"}}, {})
    assert "xoxb-secret" not in repr(settings)
    assert settings.slack.token.get_secret_value() == "xoxb-secret"


def test_a_token_needs_a_channel():
    assert "slack.channel" in faults({"slack": {"token": "xoxb"}})
    assert load_settings({"slack": {"webhook_url": "https://hooks.example/x"}}, {}).slack.channel is None


@pytest.mark.parametrize("raw", [[], "x", 3])
def test_the_whole_must_be_a_dict(raw):
    assert "guardrails" in faults(raw)


@pytest.mark.parametrize("raw", [{"policies": 3}, {"policy": 3}, {"policy": None}, {"retention": 3}, {"alerts": None}])
def test_a_section_of_the_wrong_kind_is_a_fault(raw):
    assert set(faults(raw)) == set(raw)


def test_defaults():
    settings = load_settings(None, {})
    assert settings == Settings()
    assert settings.environment == "production"
    assert settings.enabled is True
    assert settings.policy == Policy()
    assert settings.dead_letter.queue == "celery.dead_letter"
    assert settings.dead_letter.max_payload == 256 * 1024
    assert settings.dead_letter.publish_timeout == timedelta(seconds=5)
    assert settings.store.url == "sqlite:///guardrails.sqlite3"
    assert settings.slack.timeout == timedelta(seconds=10)
    assert settings.alerts.cooldown == timedelta(minutes=30)
    assert settings.alerts.group_by == ("task",)
    assert settings.retention == {
        "dead": timedelta(days=90),
        "recovered": timedelta(days=14),
        "discarded": timedelta(days=30),
        "audit": timedelta(days=400),
    }


def test_a_retention_left_out_keeps_its_default():
    retention = load_settings({"retention": {"dead": "5d", "audit": None}}, {}).retention
    assert retention["dead"] == timedelta(days=5)
    assert retention["audit"] is None
    assert retention["discarded"] == timedelta(days=30)


def test_policies_are_given_as_dicts_or_objects():
    given = Policy(max_attempts=2)
    settings = load_settings({"policies": {"a.*": {"max_attempts": 3}, "b.*": given}, "policy": {"deadline": "1h"}}, {})
    assert settings.policies["a.*"].model_fields_set == {"max_attempts"}
    assert settings.policies["b.*"] is given
    assert settings.policy.deadline == timedelta(hours=1)
    assert load_settings({"alerts": {"group_by": ["task", "error"]}}, {}).alerts.group_by == ("task", "error")


def test_the_environment_wins_and_blank_variables_are_not_set():
    environ = {
        "GUARDRAILS_SLACK_TOKEN": "xoxb-env",
        "GUARDRAILS_STORE_URL": "postgresql://db/x",
        "GUARDRAILS_ENABLED": "false",
        "GUARDRAILS_ENVIRONMENT": " ",
        "PATH": "/bin",
    }
    raw = {"slack": {"token": "xoxb-dict", "channel": "#a"}, "environment": "staging"}
    settings = load_settings(raw, environ)
    assert settings.slack.token.get_secret_value() == "xoxb-env"
    assert settings.slack.channel == "#a"
    assert settings.store.url == "postgresql://db/x"
    assert settings.enabled is False
    assert settings.environment == "staging"
    assert raw["slack"]["token"] == "xoxb-dict"


def test_the_environment_is_laid_over_a_section_given_as_an_object():
    settings = load_settings({"slack": SlackSettings(channel="#a")}, {"GUARDRAILS_SLACK_TOKEN": "xoxb-env"})
    assert settings.slack.channel == "#a"
    assert settings.slack.token.get_secret_value() == "xoxb-env"


def test_a_fault_of_the_environment_names_the_variable():
    fault = faults({}, {"GUARDRAILS_ENABLED": "perhaps"})["enabled"]
    assert fault.suggestion == "set by GUARDRAILS_ENABLED"
    assert "slack" in faults({"slack": 3}, {"GUARDRAILS_SLACK_TOKEN": "xoxb"})


def test_every_variable_stands_for_a_key():
    for variable, key in ENVIRONMENT_VARIABLES.items():
        section, _, name = key.rpartition(".")
        model = Settings.model_fields[section].annotation if section else Settings
        assert name in model.model_fields
        assert variable == "GUARDRAILS_" + key.replace(".", "_").upper()


@pytest.mark.parametrize(
    ("raw", "key", "words"),
    [
        ({"redact_patterns": "(unclosed"}, "redact_patterns", "is one string, not a list of patterns"),
        ({"redact_patterns": 3}, "redact_patterns", "is not a list of patterns, which are regular expressions"),
        ({"slack": "#alerts"}, "slack", "is of type str, not a dict"),
        ({"retention": 3}, "retention", "is of type int, not a dict"),
        ({"environment": ""}, "environment", "is empty"),
        ({"environment": 3}, "environment", "is of type int, not text"),
        ({"enabled": "perhaps"}, "enabled", "is neither True nor False"),
        ({"dead_letter": {"spool_limit": 0}}, "dead_letter.spool_limit", "is less than 1"),
        ({"dead_letter": {"spool_limit": "many"}}, "dead_letter.spool_limit", "is no whole number"),
    ],
)
def test_a_fault_speaks_our_words(raw, key, words):
    assert faults(raw)[key].problem == words
