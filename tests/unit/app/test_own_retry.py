"""Which errors Celery's options have retried, and what is set on a task later: as in plain Celery."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celery_guardrails import Constant, GuardedTask, Policy
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.in_force import UNDECLARED
from tests.unit.optioned import OWN, WAYS, NewApp, declare, effective_of


class Refused(OSError):
    """A card that has no cover."""


class Busy(Exception):
    """A bank that has no time."""


class BusyAndRefused(Busy, Refused):
    """What a client library names by both."""


class RefusedAndBusy(Refused, Busy):
    """The other way round."""


@pytest.mark.parametrize("raised", [Busy, BusyAndRefused, RefusedAndBusy])
def test_what_is_not_to_be_retried_wins_wherever_it_stands(
    new_app: NewApp, count: SimpleNamespace, raised: type[Exception]
) -> None:
    app = new_app({"policy": {"backoff": Constant(0)}})
    options = {"autoretry_for": (Busy,), "dont_autoretry_for": (Refused,), "max_retries": 2}

    @app.task(shared=False, name="shop.pay", base=GuardedTask, **options)
    def pay() -> None:
        count.runs += 1
        raise raised("no")

    pay.apply()
    assert count.runs == (3 if raised is Busy else 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("options", "runs"),
    [({"autoretry_for": (Refused,)}, 3), ({"autoretry_for": (OSError,), "dont_autoretry_for": (Refused,)}, 1), ({}, 1)],
)
def test_expected_errors_are_retried_where_celery_would(
    new_app: NewApp, count: SimpleNamespace, way: str, options: dict[str, Any], runs: int
) -> None:
    app = new_app({"guard": ["shop.*"]} if way == "by name" else {})
    app.task_cls = GuardedTask if way == "task_cls" else app.task_cls
    Guardrails(app)
    base = {"base": GuardedTask} if way == "base class" else {}

    @app.task(shared=False, name="shop.refuse", throws=(Refused,), max_retries=2, **base, **options)
    def refuse() -> None:
        count.runs += 1
        raise Refused("no cover")

    app.finalize()
    assert refuse.apply().state == "FAILURE"
    assert count.runs == runs
    assert list(Guardrails.of(app).captured) == []


def test_what_is_set_on_a_task_later_holds_as_well(new_app: NewApp, count: SimpleNamespace) -> None:
    """As tests do it: `monkeypatch.setattr(pay, "max_retries", 0)`."""
    app = new_app({"policy": {"backoff": Constant(0)}}, task_annotations={"*": {"max_retries": 6}})

    @app.task(shared=False, name="shop.pay", base=GuardedTask, bind=True)
    def pay(self: Any) -> None:
        count.runs += 1
        raise self.retry(exc=OSError("down"))

    app.finalize()
    assert (pay.max_retries, pay.acks_late) == (6, True)
    pay.max_retries = 1
    pay.apply()
    assert (pay.max_retries, count.runs) == (1, 2)
    pay.acks_late = False
    Guardrails.of(app).prepare()
    assert (pay.max_retries, pay.acks_late) == (1, False)
    assert Guardrails.of(app).policy_of(pay).provenance["max_attempts"] == f"{OWN} (max_retries)"
    assert Guardrails.of(app).policy_of(pay).provenance["acks"] == f"{OWN} (acks_late)"


@pytest.mark.parametrize("options", [{"max_retries": 10, "default_retry_delay": 3600}, {"default_retry_delay": 3600}])
def test_a_deadline_that_nobody_declared_cuts_no_retries_of_celerys_options(
    new_app: NewApp, options: dict[str, Any]
) -> None:
    effective = effective_of(declare(new_app, "base class", **options))
    assert effective.policy.deadline is None
    assert effective.provenance["deadline"] == UNDECLARED


@pytest.mark.parametrize(
    ("settings", "policy"),
    [({"policy": {"deadline": "3h"}}, None), ({}, Policy(deadline="3h")), ({}, Policy(max_attempts=None))],
)
def test_a_deadline_that_somebody_declared_holds(
    new_app: NewApp, settings: dict[str, Any], policy: Policy | None
) -> None:
    options = {"max_retries": 10} if policy is None else {"max_retries": 10, "policy": policy}
    assert effective_of(declare(new_app, "base class", settings, **options)).policy.deadline is not None


@pytest.mark.parametrize(("deadline", "runs"), [(None, 3), ("2h", 1)])
def test_a_delay_that_the_task_asks_for_passes_a_deadline_that_nobody_declared(
    new_app: NewApp, count: SimpleNamespace, deadline: str | None, runs: int
) -> None:
    app = new_app({"policy": {"max_attempts": 3}})
    declared = {} if deadline is None else {"policy": Policy(deadline=deadline)}

    @app.task(shared=False, name="shop.tomorrow", base=GuardedTask, bind=True, **declared)
    def tomorrow(self: Any) -> None:
        count.runs += 1
        raise self.retry(countdown=86_400, exc=Busy("not yet"))

    tomorrow.apply()
    assert count.runs == runs
