"""Names in `affected_by`, `correlate` and `redact` that no parameter has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_guardrails import GuardedTask, Policy
from celery_guardrails.app.argument_name import misnamed, parameters
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.errors import Fault

NewApp = Callable[..., Celery]


def found(app: Celery) -> tuple[list[Fault], list[str]]:
    guard = Guardrails.of(app)
    return misnamed((task, guard.policy_of(task)) for task in guard.guarded_tasks())


def mail_task(app: Celery, name: str = "shop.mail", base: Any = GuardedTask, **policy: Any) -> Any:
    @app.task(shared=False, base=base, name=name, bind=True, **({"policy": Policy(**policy)} if policy else {}))
    def mail(self: Any, customer_id: int, *, order: Any = None) -> None: ...

    return mail


@pytest.mark.parametrize("names", [("customer_id",), ("order",), ("order.id", "customer_id")])
@pytest.mark.parametrize("setting", ["affected_by", "correlate"])
def test_parameters_and_what_is_inside_them_are_right(new_app: NewApp, setting: str, names: tuple[str, ...]) -> None:
    app = new_app()
    mail_task(app, **{setting: names})
    assert found(app) == ([], [])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("custmer_id", "did you mean customer_id?"),
        ("self", "parameters are customer_id, order"),
        ("oder.id", "did you mean order?"),
    ],
)
@pytest.mark.parametrize("setting", ["affected_by", "correlate"])
def test_another_name_is_a_fault(new_app: NewApp, setting: str, name: str, hint: str) -> None:
    app = new_app()
    mail_task(app, **{setting: (name,)})
    assert found(app) == ([Fault(setting, repr(name), "is not a parameter of the task", "shop.mail", hint)], [])


def test_a_pattern_that_is_the_tasks_name_speaks_of_it_alone(new_app: NewApp) -> None:
    app = new_app({"policies": {"shop.mail": {"affected_by": ("custmer_id",)}}})
    mail_task(app)
    assert [fault.setting for fault in found(app)[0]] == ["affected_by"]


def test_what_tasks_share_is_right_when_one_has_it(new_app: NewApp) -> None:
    class Mail(GuardedTask):
        abstract = True
        policy = Policy(affected_by=("customer_id", "nobody"))

    app = new_app({"policies": {"shop.*": {"correlate": ("order", "nothing")}}, "policy": {"redact": ("maiden",)}})
    mail_task(app, base=Mail)

    @app.task(shared=False, base=Mail, name="shop.other")
    def other(path: str) -> None: ...

    faults, remarks = found(app)
    assert faults == []
    said = sorted(remarks)
    assert len(said) == 3
    assert "names nobody, which is not a parameter of any task that it is for" in said[0]
    assert said[1].startswith("correlate: policies[shop.*] names nothing, which is not a parameter of any task")
    assert said[2].startswith(
        "redact: settings policy names maiden, which is not a parameter of any task that it is for"
    )


def test_a_redacted_name_may_be_a_key_inside_an_argument(new_app: NewApp) -> None:
    app = new_app()
    mail_task(app, redact=("Customer-ID", "maiden_name"))
    faults, (remark,) = found(app)
    assert faults == []
    assert remark.startswith("redact: decorator names maiden_name, which is not a parameter of shop.mail: it hides")


def test_a_task_that_takes_anything_has_every_name(new_app: NewApp) -> None:
    app = new_app()

    @app.task(shared=False, base=GuardedTask, name="shop.any", policy=Policy(affected_by=("x",), redact=("y",)))
    def anything(**kwargs: Any) -> None: ...

    assert found(app) == ([], [])
    assert parameters(anything) is None


def test_a_wrapped_body_is_asked_for_its_own_parameters(new_app: NewApp) -> None:
    app = new_app()

    def body(user: str, *rest: str) -> None: ...

    @functools.wraps(body)
    def wrapped(*args: Any, **kwargs: Any) -> None: ...

    task = app.task(shared=False, base=GuardedTask, name="shop.wrapped")(wrapped)
    assert parameters(task) == {"user"}
