"""What a task with Celery's own options is to be written as: the same policy, and what is different is said."""

from __future__ import annotations

import smtplib
from typing import Any

import pytest
from celery import Task

from celery_guardrails import Constant, Exponential, GuardedTask, Policy
from celery_guardrails.app.conversion import Conversion, converted, is_early_today
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.settings import Settings
from tests.unit.optioned import NewApp, declare, effective_of


class Refused(OSError):
    """A card that has no cover."""


def plain(new_app: NewApp, conf: Any = None, base: Any = None, **options: Any) -> Task:
    """A task that is not under guard, with these options."""
    app = new_app({}, **(conf or {}))

    @app.task(shared=False, name="shop.pay", **({"base": base} if base else {}), **options)
    def pay() -> None: ...

    app.finalize()
    return app.tasks["shop.pay"]


def written(conversion: Conversion) -> Policy:
    """The policy as somebody pastes it."""
    names = {"Policy": Policy, "Constant": Constant, "Exponential": Exponential, "Refused": Refused}
    policy: Policy = eval(f"Policy({', '.join(conversion.arguments)})", names)
    return policy


@pytest.mark.parametrize(
    "options",
    [
        {"autoretry_for": (ConnectionError,)},
        {"autoretry_for": (OSError,), "dont_autoretry_for": (ConnectionError,), "max_retries": 3},
        {"autoretry_for": (OSError,), "retry_kwargs": {"max_retries": 6, "countdown": 9}},
        {"autoretry_for": (smtplib.SMTPException,), "retry_backoff": True, "retry_jitter": False, "max_retries": 10},
        {"autoretry_for": (OSError,), "retry_backoff": 5, "retry_backoff_max": 60},
        {"max_retries": None, "default_retry_delay": 60},
        {"max_retries": 0, "acks_late": True},
        {"acks_late": False},
    ],
)
def test_what_is_written_means_what_the_options_mean_under_guard(new_app: NewApp, options: dict[str, Any]) -> None:
    task = plain(new_app, **options)
    found = converted(task, Settings())
    assert found is not None
    assert set(found.leave_out) == set(options)
    by_options = effective_of(declare(new_app, "base class", **options)).policy
    by_policy = effective_of(declare(new_app, "base class", policy=written(found))).policy
    assert _comparable(by_policy) == _comparable(by_options)


def _comparable(policy: Policy) -> dict[str, Any]:
    """Its fields; a class and its path are the same to a policy."""
    fields = {name: getattr(policy, name) for name in Policy.model_fields}
    for name in ("retry_on", "give_up_on"):
        given = fields[name] or ()
        fields[name] = [f"{e.__module__}.{e.__name__}" if isinstance(e, type) and e.__module__ != "builtins" else e
                        for e in given]  # fmt: skip
    return fields


def test_a_task_that_says_nothing_has_nothing_to_be_written(new_app: NewApp) -> None:
    task = plain(new_app, conf={"task_acks_late": True})
    assert converted(task, Settings()) is None  # a setting of the whole application stays where it is
    assert not is_early_today(task)
    assert is_early_today(plain(new_app))
    assert not is_early_today(plain(new_app, acks_late=False))


def test_what_will_be_different_is_said(new_app: NewApp) -> None:
    def notes(**options: Any) -> str:
        found = converted(plain(new_app, **options), Settings())
        assert found is not None
        return "\n".join(found.notes)

    assert "under guard the task has 5 attempts" in notes(autoretry_for=(OSError,), retry_backoff=True)
    assert "180 s" not in notes(autoretry_for=(OSError,), retry_backoff=True)
    assert 'is Exponential("5s", factor=3, cap="5m")' in notes(autoretry_for=(OSError,), max_retries=3)
    assert "3 retries" not in notes(autoretry_for=(OSError,), max_retries=3)
    assert "built-in taxonomy" in notes(max_retries=3)
    assert "built-in taxonomy" not in notes(autoretry_for=(OSError,))
    assert "without end" in notes(max_retries=None)
    assert notes(acks_late=True, reject_on_worker_lost=True).endswith("replaces reject_on_worker_lost")
    assert "base class that comes first" in notes(
        autoretry_for=(OSError,), dont_autoretry_for=(ValueError,), max_retries=1
    )
    assert "cannot be read: max_retries = 'three'" in notes(max_retries="three")


def test_options_of_a_class_and_of_annotations_say_where_they_are(new_app: NewApp) -> None:
    class PaymentTask(Task):  # type: ignore[misc]
        abstract = True
        autoretry_for = (OSError,)

    found = converted(
        plain(new_app, conf={"task_annotations": {"shop.pay": {"max_retries": 7}}}, base=PaymentTask), Settings()
    )
    assert found is not None
    assert found.arguments == ("retry_on=(OSError,)", "max_attempts=8", "deadline=None")
    assert found.leave_out == ("autoretry_for",)
    assert any("max_retries is set by task_annotations" in note for note in found.notes)
    assert any("PaymentTask from GuardedTask" in note for note in found.notes)


def test_a_guarded_task_keeps_what_its_policy_says(new_app: NewApp) -> None:
    app = new_app({})

    @app.task(shared=False, base=GuardedTask, name="shop.pay", policy=Policy(max_attempts=2), default_retry_delay=5)
    def pay() -> None: ...

    app.finalize()
    found = converted(app.tasks["shop.pay"], Guardrails.of(app).settings)
    assert found is not None
    assert found.guarded
    assert found.arguments[:2] == ('backoff=Constant("5s")', 'jitter="none"')
    assert not any("max_attempts" in argument for argument in found.arguments)
