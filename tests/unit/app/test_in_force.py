"""Which policy is in force, where each field comes from, and what is wrong with a declaration."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from celery_guardrails import Constant, Exponential, GuardedTask, Policy
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.in_force import under_guard_by
from celery_guardrails.errors import ConfigurationError, Fault
from celery_guardrails.policy import policy_fields

NewApp = Callable[..., Celery]


def the_fault(app: Celery) -> Fault:
    (fault,) = Guardrails.of(app).faults()
    return fault


def test_precedence_is_field_by_field(new_app: NewApp) -> None:
    app = new_app(
        {
            "policy": {"owner": "settings", "runbook": "settings", "severity": "info", "version": "settings"},
            "policies": {
                "billing.*": {"max_attempts": 2, "deadline": "9m"},
                "billing.pay": {"max_attempts": 7},
                "other.*": {"owner": "no"},
            },
        }
    )

    class Base(GuardedTask):
        abstract = True
        policy = Policy(max_attempts=11, owner="base", max_crashes=9, jitter="none")

    class Nearer(Base):
        abstract = True
        policy = Policy(owner="nearer", max_crashes=8)

    @app.task(base=Nearer, name="billing.pay", shared=False, policy=Policy(max_crashes=7, deadline="1m"))
    def pay() -> None: ...

    effective = Guardrails.of(app).policy_of(app.tasks["billing.pay"])
    expected = {
        "max_attempts": (7, "policies[billing.pay]"),
        "deadline": (timedelta(minutes=9), "policies[billing.*]"),
        "max_crashes": (7, "decorator"),
        "owner": ("nearer", "class " + Nearer.__qualname__),
        "jitter": ("none", "class " + Base.__qualname__),
        "runbook": ("settings", "settings policy"),
        "severity": ("info", "settings policy"),
        "acks": ("late", "default"),
    }
    assert {name: (getattr(effective.policy, name), effective.provenance[name]) for name in expected} == expected


def test_mixins_count_by_their_place_in_the_mro(new_app: NewApp) -> None:
    app = new_app()

    class Team:
        policy = Policy(owner="team", runbook="team")

    class Mail(GuardedTask):
        name = "shop.mail"
        policy = Policy(owner="mail")

    class Receipt(Team, Mail):
        name = "shop.receipt"

        def run(self) -> None: ...

    app.register_task(Receipt())
    effective = Guardrails.of(app).policy_of(app.tasks["shop.receipt"])
    assert effective.policy.owner == "team"
    assert effective.provenance["runbook"] == "class " + Team.__qualname__


def test_a_task_that_declares_nothing_has_the_defaults(new_app: NewApp) -> None:
    app = new_app()

    @app.task(base=GuardedTask, shared=False, name="shop.plain")
    def plain() -> None: ...

    effective = Guardrails.of(app).policy_of(app.tasks["shop.plain"])
    assert effective.policy == Policy()
    assert set(effective.provenance.values()) == {"default"}
    assert under_guard_by(plain) == "base class"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("wrong", [{"max_attempts": 3}, 5, "late", Policy, Unprintable(), "x" * 5000])
def test_what_is_not_a_policy_is_a_fault(new_app: NewApp, wrong: Any) -> None:
    app = new_app()

    @app.task(base=GuardedTask, shared=False, name="shop.mail", policy=wrong)
    def mail() -> None: ...

    fault = the_fault(app)
    assert (fault.task, fault.setting, fault.problem) == ("shop.mail", "policy", "is not a Policy")
    assert len(fault.value) <= 120
    assert fault.suggestion == "write policy=Policy(...)"


def test_a_wrong_policy_on_a_class_is_found_below_a_right_one(new_app: NewApp) -> None:
    app = new_app()

    class Base(GuardedTask):
        abstract = True
        policy: Any = {"max_attempts": 3}

    @app.task(base=Base, shared=False, name="shop.mail", policy=Policy(max_attempts=2))
    def mail() -> None: ...

    assert the_fault(app).setting == "policy"


def test_layers_that_contradict_each_other_are_a_fault_of_the_task(new_app: NewApp) -> None:
    app = new_app({"policies": {"shop.*": {"max_attempts": None}}})

    @app.task(base=GuardedTask, shared=False, name="shop.mail", policy=Policy(deadline=None))
    def mail() -> None: ...

    fault = the_fault(app)
    assert (fault.task, fault.setting) == ("shop.mail", "deadline")
    assert "policies[shop.*]" in str(fault)
    with pytest.raises(ConfigurationError):
        Guardrails.of(app).policy_of(app.tasks["shop.mail"])


def test_a_task_whose_policy_is_wrong_keeps_celerys_options(new_app: NewApp) -> None:
    """Such as in a web process or a test, which no worker's start has warned."""
    app = new_app({"policies": {"shop.*": {"max_attempts": None}}})

    @app.task(
        base=GuardedTask, shared=False, name="shop.mail", policy=Policy(deadline=None), autoretry_for=(OSError,),
        max_retries=7,
    )  # fmt: skip
    def mail() -> None: ...

    Guardrails.of(app).take_charge(task := app.tasks["shop.mail"])
    assert task.max_retries == 7
    assert task.run is not task._orig_run


def test_all_faults_are_listed_at_once(new_app: NewApp) -> None:
    app = new_app(task_protocol=1)

    @app.task(base=GuardedTask, shared=False, name="shop.a", policy=1)
    def a() -> None: ...

    @app.task(base=GuardedTask, shared=False, name="shop.b", policy=Policy(), autoretry_for=(OSError,))
    def b() -> None: ...

    assert [(f.task, f.setting) for f in Guardrails.of(app).faults()] == [
        (None, "task_protocol"), ("shop.a", "policy"), ("shop.b", "autoretry_for"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({}, Policy(retry_on=(OSError,), max_attempts=4)),
        ({"max_retries": 0}, Policy(retry_on=(OSError,), max_attempts=1)),
        ({"max_retries": None}, Policy(retry_on=(OSError,), max_attempts=None)),
        ({"retry_kwargs": {"max_retries": 7}}, Policy(retry_on=(OSError,), max_attempts=8)),
        ({"retry_kwargs": {"max_retries": None}}, Policy(retry_on=(OSError,), max_attempts=4)),
        (
            {"retry_kwargs": {"countdown": 5}, "max_retries": 1},
            Policy(retry_on=(OSError,), max_attempts=2, backoff=Constant(5)),
        ),
        (
            {"retry_backoff": True, "max_retries": 1},
            Policy(retry_on=(OSError,), max_attempts=2, backoff=Exponential(1, factor=2, cap=600)),
        ),
        (
            {"retry_backoff": 0.5, "max_retries": 1},
            Policy(retry_on=(OSError,), max_attempts=2, backoff=Exponential(1, factor=2, cap=600)),
        ),
        (
            {"retry_backoff": 30, "retry_backoff_max": 90, "max_retries": 1, "retry_jitter": False},
            Policy(
                retry_on=(OSError,), max_attempts=2, backoff=Exponential(30, factor=2, cap=90), jitter="none"
            ),
        ),
        (
            {"dont_autoretry_for": (FileNotFoundError, json.JSONDecodeError), "max_retries": 1},
            Policy(
                retry_on=(OSError,), max_attempts=2, give_up_on=(FileNotFoundError, json.JSONDecodeError)
            ),
        ),
    ],
)  # fmt: skip
def test_autoretry_says_what_to_write_instead(new_app: NewApp, options: dict[str, Any], meant: Policy) -> None:
    app = new_app()

    @app.task(base=GuardedTask, shared=False, name="shop.mail", policy=Policy(), autoretry_for=(OSError,), **options)
    def mail() -> None: ...

    fault = the_fault(app)
    assert fault.suggestion is not None
    written = fault.suggestion.removeprefix("write policy=").removesuffix(" instead")
    names = {"Policy": Policy, "Exponential": Exponential, "Constant": Constant, "json": json}
    policy = eval(written, names)
    assert policy_fields(policy) == policy_fields(meant)
    assert policy.model_fields_set == meant.model_fields_set


def test_autoretry_on_a_class_or_in_a_list(new_app: NewApp) -> None:
    app = new_app()

    class Base(GuardedTask):
        abstract = True
        policy = Policy(owner="mail")
        autoretry_for = [json.JSONDecodeError, OSError]

    @app.task(base=Base, shared=False, name="shop.mail")
    def mail() -> None: ...

    assert the_fault(app).value == "(json.decoder.JSONDecodeError, OSError)"


def test_autoretry_of_an_adopted_task_becomes_its_retry_on(new_app: NewApp, count: SimpleNamespace) -> None:
    app = new_app({"guard": ["vendor.*"], "policies": {
        "vendor.told": {"retry_on": (KeyError,)}, "*": {"backoff": Constant(0), "jitter": "none", "max_attempts": 2},
    }})  # fmt: skip
    Guardrails(app)

    @app.task(shared=False, name="vendor.sync", autoretry_for=(ValueError,), max_retries=9, retry_backoff=True)
    def sync(error: str) -> None:
        count.runs += 1
        raise {"value": ValueError, "key": KeyError, "os": ConnectionError}[error]("x")

    @app.task(shared=False, name="vendor.told", autoretry_for=(ValueError,))
    def told(error: str) -> None:
        sync.run(error)

    assert Guardrails.of(app).faults() == []
    effective = Guardrails.of(app).policy_of(app.tasks["vendor.sync"])
    assert effective.policy.retry_on == (ValueError,)
    assert effective.provenance["retry_on"] == "the task's own options (autoretry_for)"
    runs = {}
    for task in (sync, told):
        for error in ("value", "key", "os"):
            count.runs = 0
            task.delay(error)
            runs[task.name, error] = count.runs
    assert runs == {
        ("vendor.sync", "value"): 2, ("vendor.sync", "key"): 1, ("vendor.sync", "os"): 1,
        ("vendor.told", "value"): 1, ("vendor.told", "key"): 2, ("vendor.told", "os"): 1,
    }  # fmt: skip


def test_an_adopted_tasks_own_attribute_named_policy_is_its_own(new_app: NewApp) -> None:
    """A library may mean something else by `policy`."""
    app = new_app({"guard": ["vendor.*"]})
    Guardrails(app)

    @app.task(shared=False, name="vendor.sync", policy="lru")
    def sync() -> None: ...

    assert Guardrails.of(app).faults() == []
    assert app.tasks["vendor.sync"].policy == "lru"
    assert under_guard_by(app.tasks["vendor.sync"]) == "guard pattern vendor.*"
