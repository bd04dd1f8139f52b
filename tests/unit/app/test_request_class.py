"""Which request class a worker makes for a guarded task, and which request classes are faults."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, Task
from celery.worker.request import Request

from celery_guardrails import GuardedTask, GuardMixin, Guardrails
from celery_guardrails.errors import ConfigurationError
from celery_guardrails.worker.main.request import GuardedRequest


class Theirs(Request):  # type: ignore[misc]
    pass


class Slotted(Request):  # type: ignore[misc]
    __slots__ = ("noted",)


class Counting(type):
    pass


class WithMetaclass(Request, metaclass=Counting):  # type: ignore[misc]
    pass


class OnOurs(GuardedRequest):
    pass


class NotARequest:
    pass


class Final(Request):  # type: ignore[misc]
    def __init_subclass__(cls, **options: Any) -> None:
        if "Request" not in cls.__name__:
            raise TypeError("Final is final")


def own_function(message: Any, **options: Any) -> Request:
    return Request(message, **options)


def nothing() -> None: ...


def task_with(app: Celery, request: Any, base: type = GuardedTask) -> Any:
    task: Any = app.task(shared=False, base=base, name="unit.own", Request=request)(nothing)
    return app.tasks[task.name]


@pytest.mark.parametrize("theirs", [Theirs, Slotted, WithMetaclass, f"{__name__}:Theirs"])
def test_ours_comes_before_theirs(app: Celery, theirs: Any) -> None:
    task = task_with(app, theirs)
    made = task.Request
    order = made.__mro__
    expected = Theirs if isinstance(theirs, str) else theirs
    assert order.index(GuardedRequest) < order.index(expected) < order.index(Request)
    assert task.Request is made
    assert Guardrails.of(app).faults() == []


def test_one_class_for_all_tasks_of_a_request_class(app: Celery) -> None:
    one = task_with(app, Theirs)
    other = app.task(shared=False, base=GuardedTask, name="unit.other", Request=Theirs)(nothing)
    assert one.Request is other.Request


def test_a_request_class_on_ours_is_taken_as_it_is(app: Celery) -> None:
    assert task_with(app, OnOurs).Request is OnOurs


@pytest.mark.parametrize("theirs", [Request, "celery.worker.request:Request"])
def test_celerys_own_request_class_is_not_mixed(app: Celery, theirs: Any) -> None:
    assert task_with(app, theirs).Request is GuardedRequest


def test_a_base_behind_the_mixin_counts(app: Celery) -> None:
    class Base(Task):  # type: ignore[misc]
        abstract = True
        Request = Theirs

    class Ours(GuardMixin, Base):
        abstract = True

    class Further(Ours):
        abstract = True

    task = app.task(shared=False, base=Further, name="unit.further")(nothing)
    assert issubclass(task.Request, GuardedRequest)
    assert issubclass(task.Request, Theirs)


def test_an_adopted_task_keeps_its_request_class_below_ours(new_app: Any) -> None:
    app = new_app({"guard": ["unit.*"]})
    task = task_with(app, Theirs, base=Task)
    Guardrails(app).prepare()
    assert issubclass(task.Request, GuardedRequest)
    assert issubclass(task.Request, Theirs)
    assert Task.Request == "celery.worker.request:Request"


def test_a_task_may_change_its_mind(app: Celery) -> None:
    task = task_with(app, Theirs)
    task.Request = Slotted
    assert issubclass(task.Request, Slotted)
    assert issubclass(task.Request, GuardedRequest)


@pytest.mark.parametrize(
    ("theirs", "problem"),
    [
        (NotARequest, "is not derived from celery.worker.request.Request"),
        (own_function, "is not a class"),
        (Final, "cannot be mixed with guardrails' request class: Final is final"),
        ("tests.nowhere:Request", "cannot be imported"),
        (f"{__name__}:Missing", "cannot be imported"),
    ],
)
def test_what_cannot_be_followed_stops_a_worker(app: Celery, theirs: Any, problem: str) -> None:
    task_with(app, theirs)
    (fault,) = Guardrails.of(app).faults()
    assert fault.task == "unit.own"
    assert fault.setting == "Request"
    assert problem in fault.problem
    assert fault.suggestion
    with pytest.raises(ConfigurationError):
        Guardrails.of(app).prepare()


def test_under_the_kill_switch_it_is_as_without_guardrails(new_app: Any) -> None:
    app = new_app({"enabled": False})
    task = task_with(app, NotARequest)
    assert Guardrails.of(app).faults() == []
    assert task.Request is NotARequest
