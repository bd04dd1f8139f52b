"""What Celery's own options say of a guarded task: the same whichever way it came under guard."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Task

from celery_guardrails import Constant, Exponential, GuardedTask, Policy
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.in_force import UNDECLARED, contradictions
from celery_guardrails.app.own_option import NeverRetried
from celery_guardrails.policy.decision import Reason
from tests.unit.optioned import OWN, WAYS, NewApp, declare, effective_of


class Refused(OSError):
    """A card that has no cover."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({"max_retries": 1}, {"max_attempts": (2, "max_retries")}),
        ({"max_retries": 7}, {"max_attempts": (8, "max_retries")}),
        ({"max_retries": 0}, {"max_attempts": (1, "max_retries")}),
        ({"max_retries": -1}, {"max_attempts": (1, "max_retries")}),
        ({"max_retries": None}, {"max_attempts": (None, "max_retries")}),
        ({"max_retries": 3}, {"max_attempts": (4, "max_retries")}),  # Celery's default, written out
        ({"max_retries": float("inf")}, {"max_attempts": (None, "max_retries")}),
        (
            {"default_retry_delay": 1},
            {"backoff": (Constant(1), "default_retry_delay"), "jitter": ("none", "default_retry_delay")},
        ),
        (
            {"autoretry_for": (OSError,), "dont_autoretry_for": (Refused,)},
            {
                "retry_on": ((OSError,), "autoretry_for"),
                "give_up_on": ((Refused,), "dont_autoretry_for"),
            },
        ),
        (
            # to Celery, what is not to be retried wins however far up in an error's classes it stands
            {"autoretry_for": (ConnectionError, ValueError), "dont_autoretry_for": (OSError,)},
            {
                "retry_on": ((ValueError,), "autoretry_for"),
                "give_up_on": ((OSError, NeverRetried((OSError,))), "dont_autoretry_for"),
            },
        ),
        (
            {"autoretry_for": (OSError,), "retry_kwargs": {"max_retries": 6, "countdown": 9}, "max_retries": 2},
            {
                "retry_on": ((OSError,), "autoretry_for"),
                "max_attempts": (7, "retry_kwargs"),
                "backoff": (Constant(9), "retry_kwargs"),
                "jitter": ("none", "retry_kwargs"),
            },
        ),
        (
            {"autoretry_for": [OSError], "retry_kwargs": {"max_retries": None}, "max_retries": 2},
            {"retry_on": ((OSError,), "autoretry_for"), "max_attempts": (3, "max_retries")},
        ),
        (
            {"autoretry_for": (OSError,), "retry_backoff": True},
            {
                "retry_on": ((OSError,), "autoretry_for"),
                "backoff": (Exponential(1, factor=2, cap=600), "retry_backoff"),
                "jitter": ("full", "retry_backoff"),
            },
        ),
        (
            {"autoretry_for": (OSError,), "retry_backoff": 5.7, "retry_backoff_max": 60, "retry_jitter": False},
            {
                "retry_on": ((OSError,), "autoretry_for"),
                "backoff": (Exponential(5, factor=2, cap=60), "retry_backoff"),
                "jitter": ("none", "retry_backoff"),
            },
        ),
        (
            # to Celery, `retry_kwargs` and `retry_backoff` say nothing without `autoretry_for`
            {"retry_kwargs": {"max_retries": 6, "countdown": 9}, "max_retries": 2, "default_retry_delay": 1},
            {
                "max_attempts": (3, "max_retries"),
                "backoff": (Constant(1), "default_retry_delay"),
                "jitter": ("none", "default_retry_delay"),
            },
        ),
        (
            {"retry_backoff": 5, "default_retry_delay": 1},
            {"backoff": (Constant(1), "default_retry_delay"), "jitter": ("none", "default_retry_delay")},
        ),
        ({"autoretry_for": ()}, {}),
        ({"acks_late": False}, {"acks": ("early", "acks_late")}),
        ({"acks_late": True}, {"acks": ("late", "acks_late")}),
        ({}, {}),
    ],
)
def test_each_option_is_a_field_with_its_provenance(
    new_app: NewApp, way: str, options: dict[str, Any], meant: dict[str, tuple[Any, str]]
) -> None:
    task = declare(new_app, way, **options)
    effective = effective_of(task)
    found = {
        field: (getattr(effective.policy, field), origin)
        for field, origin in effective.provenance.items()
        if origin not in ("default", UNDECLARED)  # the deadline: test_own_retry.py
    }
    assert found == {field: (value, f"{OWN} ({option})") for field, (value, option) in meant.items()}
    assert contradictions(task, Guardrails.of(task.app).settings) == []


@pytest.mark.parametrize("way", WAYS)
def test_the_task_says_what_is_in_force(new_app: NewApp, way: str) -> None:
    task = declare(new_app, way, max_retries=1, acks_late=False)
    assert (task.max_retries, task.acks_late) == (1, False)
    assert declare(new_app, way).max_retries == 4
    assert declare(new_app, way).acks_late is True
    assert declare(new_app, way, max_retries=None).max_retries is None
    assert declare(new_app, way, {"policies": {"shop.*": {"max_attempts": 9, "acks": "early"}}}).max_retries == 8
    # asked again, the covered values have not become the task's own
    task = declare(new_app, way)
    Guardrails.of(task.app).prepare()
    assert set(Guardrails(task.app).policy_of(task).provenance.values()) == {"default"}


@pytest.mark.parametrize("way", WAYS)
def test_the_kill_switch_leaves_every_option_as_celery_has_it(new_app: NewApp, way: str) -> None:
    task = declare(new_app, way, {"enabled": False}, autoretry_for=(OSError,))
    Guardrails.of(task.app).prepare()
    assert (task.max_retries, task.acks_late) == (3, False)
    assert task.run is not task._orig_run


@pytest.mark.parametrize("way", ["base class", "by name"])
def test_a_class_says_it_as_well_as_a_decorator(new_app: NewApp, way: str) -> None:
    app = new_app({"guard": ["shop.*"]})
    Guardrails(app)

    class Base(GuardedTask if way == "base class" else Task):  # type: ignore[misc]
        abstract = True
        max_retries = 1
        default_retry_delay = 2
        acks_late = False

    class Nearer(Base):
        abstract = True
        max_retries = 2

    @app.task(shared=False, name="shop.pay", base=Nearer, default_retry_delay=3)
    def pay() -> None: ...

    app.finalize()
    effective = effective_of(app.tasks["shop.pay"])
    assert (effective.policy.max_attempts, effective.policy.backoff, effective.policy.acks) == (3, Constant(3), "early")
    assert effective.provenance["acks"] == f"{OWN} (acks_late)"


def test_an_option_that_is_none_says_nothing_but_of_max_retries(new_app: NewApp) -> None:
    task = declare(new_app, "base class", acks_late=None, default_retry_delay=None)
    assert set(effective_of(task).provenance.values()) == {"default"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", ["shop.pay", "*"])
def test_annotations_win_over_the_tasks_own_options(new_app: NewApp, way: str, key: str) -> None:
    annotations = {key: {"acks_late": False, "max_retries": 7, "default_retry_delay": 2, "rate_limit": "9/s"}}
    task = declare(new_app, way, conf={"task_annotations": annotations}, max_retries=1, acks_late=True)
    effective = effective_of(task)
    assert (effective.policy.acks, effective.policy.max_attempts, effective.policy.backoff) == ("early", 8, Constant(2))
    assert effective.provenance["acks"] == "task_annotations (acks_late)"
    assert effective.provenance["max_attempts"] == "task_annotations (max_retries)"
    assert (task.acks_late, task.max_retries, task.rate_limit) == (False, 7, "9/s")


def test_a_policys_fields_stand_above_and_the_settings_default_below(new_app: NewApp) -> None:
    options = {"max_retries": 6, "default_retry_delay": 7, "autoretry_for": (OSError,)}
    settings = {"policy": {"max_attempts": 2, "backoff": Constant(1), "jitter": 0.1, "deadline": "9h"}}
    effective = effective_of(declare(new_app, "base class", settings, **options))
    assert (effective.policy.max_attempts, effective.policy.backoff, effective.policy.jitter) == (
        7,
        Constant(7),
        "none",
    )
    assert effective.policy.deadline == timedelta(hours=9)
    settings["policies"] = {"shop.*": {"max_attempts": 3, "backoff": Constant(2)}}
    effective = effective_of(declare(new_app, "base class", settings, **options))
    # the jitter that Celery means belongs to its own delay
    assert (effective.policy.max_attempts, effective.policy.backoff, effective.policy.jitter) == (3, Constant(2), 0.1)
    assert effective.policy.retry_on == (OSError,)


def test_unbounded_retries_need_a_deadline(new_app: NewApp) -> None:
    task = declare(new_app, "base class", max_retries=None, policy=Policy(deadline=None))
    (fault,) = Guardrails.of(task.app).faults()
    assert "the task's own options (max_retries) sets max_attempts=None" in fault.problem


def test_what_cannot_both_hold_is_named_with_what_holds(new_app: NewApp) -> None:
    task = declare(new_app, "base class", max_retries=1, policy=Policy(max_attempts=5, owner="us"))
    (said,) = contradictions(task, Guardrails.of(task.app).settings)
    assert said.startswith(
        "shop.pay: max_attempts is 2 by the task's own options (max_retries), but 5 by decorator, which holds."
    )
    task = declare(new_app, "base class", conf={"task_acks_late": False}, policy=Policy(acks="late"))
    (said,) = contradictions(task, Guardrails.of(task.app).settings)
    assert "acks is 'late' by decorator, but 'early' by task_acks_late, which holds." in said
    for settled in (
        declare(new_app, "base class", max_retries=4, policy=Policy(max_attempts=5)),
        declare(new_app, "base class", {"policies": {"shop.pay": {"max_attempts": 5}}}, max_retries=1),
        declare(new_app, "by name", {"policies": {"shop.pay": {"max_attempts": 5}}}, max_retries=1),
        declare(new_app, "base class", conf={"task_acks_late": False}, policy=Policy(acks="early")),
    ):
        assert contradictions(settled, Guardrails.of(settled.app).settings) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_retries": "three"},
        {"default_retry_delay": "soon"},
        {"autoretry_for": ("OSErrors",)},
        {"retry_backoff_max": -5, "retry_backoff": True},
    ],
)
def test_what_cannot_be_read_is_left_out_and_named(new_app: NewApp, wrong: dict[str, Any]) -> None:
    task = declare(new_app, "base class", **wrong)
    assert set(effective_of(task).provenance.values()) == {"default"}
    (said,) = contradictions(task, Guardrails.of(task.app).settings)
    assert said.startswith(f"shop.pay: {next(iter(reversed(wrong)))} = ")


def test_automatic_retries_of_a_library_follow_the_policy(new_app: NewApp, count: SimpleNamespace) -> None:
    """As a shared task is made, under `task_cls`: the error of a library is nobody's to mend here."""
    app = new_app({"policy": {"backoff": Constant(0), "jitter": "none"}})
    app.task_cls = GuardedTask

    @app.task(shared=False, name="vendor.sync", autoretry_for=(OSError,), max_retries=2)
    def sync(error: str) -> None:
        count.runs += 1
        raise {"os": OSError, "key": KeyError}[error]("down")

    for error, runs in (("os", 3), ("key", 1)):
        count.runs = 0
        sync.apply((error,))
        assert count.runs == runs
    assert [letter.reason for letter in Guardrails.of(app).captured] == [
        Reason.ATTEMPTS_EXHAUSTED, Reason.PERMANENT_ERROR,
    ]  # fmt: skip
    assert Guardrails.of(app).faults() == []


def test_automatic_retries_work_under_the_kill_switch(new_app: NewApp, count: SimpleNamespace) -> None:
    app = new_app({"enabled": False})

    @app.task(shared=False, name="shop.sync", base=GuardedTask, autoretry_for=(OSError,), max_retries=2)
    def sync() -> None:
        count.runs += 1
        raise OSError("down")

    sync.apply()
    assert count.runs == 3


@pytest.mark.parametrize(
    ("options", "asked", "runs"),
    [
        ({"max_retries": 1}, None, 2),
        ({"max_retries": 7}, None, 8),
        ({}, None, 5),
        ({"max_retries": 1}, 3, 4),  # as in Celery, the call's wins over the task's
        ({"max_retries": 7}, 3, 4),
        ({}, 6, 7),
        ({"policy": Policy(max_attempts=3)}, 6, 3),
        ({"policy": Policy(max_attempts=3)}, 1, 2),
        ({"max_retries": 7, "policy": Policy(max_attempts=3)}, None, 3),
    ],
)
def test_how_often_a_task_retries_by_hand(
    new_app: NewApp, count: SimpleNamespace, options: dict[str, Any], asked: int | None, runs: int
) -> None:
    app = new_app({"policy": {"backoff": Constant(0), "max_attempts": 5}})

    @app.task(shared=False, name="shop.pay", base=GuardedTask, bind=True, **options)
    def pay(self: Any) -> None:
        count.seen.append(self.max_retries)
        raise self.retry(exc=OSError("down"), max_retries=asked)

    pay.apply()
    policy = Guardrails.of(app).policy_of(pay).policy
    assert policy.max_attempts is not None
    assert count.seen == [policy.max_attempts - 1] * runs


def test_a_retry_by_hand_waits_as_long_as_the_task_says(new_app: NewApp, count: SimpleNamespace) -> None:
    app = new_app()

    @app.task(shared=False, name="shop.pay", base=GuardedTask, bind=True, max_retries=1, default_retry_delay=1)
    def pay(self: Any) -> None:
        raise self.retry(exc=OSError("down"))

    pay.apply()
    (letter,) = Guardrails.of(app).captured
    assert [attempt.delay for attempt in letter.attempts] == [1, None]
