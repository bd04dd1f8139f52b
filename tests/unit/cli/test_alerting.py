"""What the guardian knows of a task's alerts: from its policy, and from the settings."""

from __future__ import annotations

from datetime import timedelta

from celery import Celery

from celery_guardrails import GuardedTask, Policy
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.cli.daemon.alerting import task_alerts
from celery_guardrails.policy.alert import TaskAlerts
from celery_guardrails.policy.threshold import DeadLetterThreshold


def run():
    """The body of every task here."""


def test_it_is_found_by_the_tasks_name():
    app = Celery("shop", broker="memory://")
    app.conf.guardrails = {"policies": {"shop.muted": {"alert": False}}}
    few = {"dead_letter": {"count": 5, "within": "10m"}}
    for name, policy in (("shop.few", Policy(alert=few)), ("shop.muted", Policy()), ("shop.plain", Policy())):
        app.task(run, name=name, base=GuardedTask, policy=policy)
    app.finalize()
    asked = task_alerts(Guardrails.of(app))
    few = DeadLetterThreshold(count=5, within=timedelta(minutes=10))
    assert asked("shop.few")[0] == TaskAlerts(own={"dead_letter": few})
    assert asked("shop.muted")[0] == TaskAlerts(muted=True)
    assert asked("shop.plain")[0] is None
    assert asked("gone.task") == (None, timedelta(0))
