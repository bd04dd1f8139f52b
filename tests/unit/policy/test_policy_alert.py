"""What a policy says about its alerts: thresholds by signal, validated as the settings of the same name."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from celery_guardrails import Policy
from celery_guardrails.errors import ConfigurationError
from celery_guardrails.policy.alert import TaskAlerts, limits
from celery_guardrails.policy.declaration import policy_fields
from celery_guardrails.policy.threshold import (
    DeadLetterThreshold,
    ErrorRateThreshold,
    FailedAttemptsThreshold,
    OverdueThreshold,
    QueueLatencyThreshold,
    Thresholds,
    ThroughputThreshold,
    UnreconciledThreshold,
)
from celery_guardrails.settings import load_settings

USUAL = Thresholds()


@pytest.mark.parametrize(
    ("signal", "written", "read"),
    [
        ("dead_letter", {"count": 20}, DeadLetterThreshold(count=20)),
        ("failed_attempts", {"count": 5}, FailedAttemptsThreshold(enabled=True, count=5)),
        ("failed_attempts", {"enabled": False}, FailedAttemptsThreshold()),
        ("error_rate", {"within": "10m", "times": 5}, ErrorRateThreshold(within=timedelta(minutes=10), times=5)),
        ("queue_latency", {"evaluations": 5}, QueueLatencyThreshold(evaluations=5)),
        ("throughput", {"ratio": 0.1, "least": 1}, ThroughputThreshold(ratio=0.1, least=1)),
        ("overdue", {"grace": "1h", "ignore": ["old*"]}, OverdueThreshold(grace=timedelta(hours=1), ignore=("old*",))),
        ("unreconciled", {"after": 60}, UnreconciledThreshold(after=timedelta(seconds=60))),
    ],
)
def test_each_signal_takes_the_fields_of_its_setting(signal, written, read):
    alert = Policy(alert={signal: written}).alert
    assert alert.threshold(getattr(USUAL, signal), signal) == read
    other = next(name for name in Thresholds.model_fields if name != signal)
    assert alert.threshold(getattr(USUAL, other), other) is getattr(USUAL, other)


def test_a_field_that_is_left_out_is_as_the_settings_say():
    usual = load_settings({"alerts": {"thresholds": {"throughput": {"ratio": 0.2, "least": 7}}}}, {}).alerts.thresholds
    alert = Policy(alert={"throughput": {"least": 9}}).alert
    assert alert.threshold(usual.throughput, "throughput") == ThroughputThreshold(ratio=0.2, least=9)


def test_false_mutes_all_or_one_signal():
    assert all(Policy(alert=False).alert.threshold(usual, signal) is None for signal, usual in USUAL)
    alert = Policy(alert={"throughput": False, "queue_latency": {"evaluations": 3}}).alert
    assert not alert.muted
    assert [signal for signal, usual in USUAL if alert.threshold(usual, signal) is None] == ["throughput"]


def test_the_thresholds_of_all_tasks():
    words = {
        "a": Policy(alert={"throughput": {"least": 1}}).alert,
        "b": Policy(alert=False).alert,
        "c": Policy(alert={"error_rate": False}).alert,
        "d": None,
    }
    found = limits(USUAL.throughput, "throughput", words)
    assert [found.of(task) for task in "abcde"] == [
        ThroughputThreshold(least=1), None, USUAL.throughput, USUAL.throughput, USUAL.throughput
    ]  # fmt: skip
    assert found.different == [USUAL.throughput, ThroughputThreshold(least=1)]


@pytest.mark.parametrize(
    ("written", "where", "says"),
    [
        ({"throughputt": {}}, "alert", "did you mean throughput?"),
        ({"no_guardian": False}, "alert", "is not one of dead_letter, failed_attempts, error_rate"),
        ({"throughput": {"ratoi": 0.1}}, "alert.throughput", "did you mean ratio?"),
        ({"throughput": {"zzz": "xoxb-1-secret"}}, "alert.throughput", "is not one of ratio, least"),
        ({"throughput": {"ratio": 7}}, "alert.throughput.ratio", "is more than 1"),
        ({"throughput": {"ratio": "much"}}, "alert.throughput.ratio", "is no number"),
        ({"error_rate": {"within": "3 parsecs"}}, "alert.error_rate.within", "is not a duration"),
        ({"dead_letter": {"count": 0}}, "alert.dead_letter.count", "is less than 1"),
        ({"dead_letter": {"count": True}}, "alert.dead_letter.count", "is of type bool, not a whole number"),
        ({"overdue": {"ignore": "nightly"}}, "alert.overdue.ignore", "write ('nightly',)"),
        ({"queue_latency": True}, "alert.queue_latency", "write False or a dict of evaluations"),
        ({"queue_latency": 3}, "alert.queue_latency", "is not a dict (write False or a dict of evaluations)"),
        (True, "alert", "is the default: leave it out"),
        ("never", "alert", "write False or"),
    ],
)
def test_a_wrong_threshold_is_an_error_that_names_the_key(written, where, says):
    with pytest.raises(ConfigurationError) as caught:
        Policy(alert=written, severity="critical")
    (fault,) = caught.value.faults
    assert fault.setting == where
    assert says in str(fault)
    assert "secret" not in str(fault)


@pytest.mark.parametrize("signal", Thresholds.model_fields)
def test_the_settings_name_the_key_too(signal):
    name = next(iter(type(getattr(USUAL, signal)).model_fields))
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"alerts": {"thresholds": {signal: {name + "x": 1}}}}, {})
    (fault,) = caught.value.faults
    assert fault.setting == f"alerts.thresholds.{signal}.{name}x"
    assert fault.suggestion == f"did you mean {name}?"


def test_a_fault_in_the_policies_of_the_settings_names_its_pattern():
    with pytest.raises(ConfigurationError, match=r"policies\.shop\.\*\.alert\.throughput = 'leest'"):
        load_settings({"policies": {"shop.*": {"alert": {"throughput": {"leest": 3}}}}}, {})


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (False, False),
        (None, None),
        ({}, None),
        (
            {"overdue": {"grace": "1h30m"}, "throughput": False},
            {"overdue": {"grace": "1h30m"}, "throughput": False},
        ),
    ],
)
def test_it_is_kept_as_it_was_written(written, shown):
    assert json.loads(json.dumps(policy_fields(Policy(alert=written))["alert"])) == shown


def test_what_was_read_is_read_again():
    alert = Policy(alert={"dead_letter": {"count": 3}}).alert
    assert Policy(alert=alert).alert is alert
    assert Policy(alert={"dead_letter": DeadLetterThreshold(count=3)}).alert == alert
    assert Policy(alert=TaskAlerts(muted=True)).alert.as_data() is False
