"""When a guarded task is acknowledged: by its own options, annotations, and what the application says."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from celery import Celery, Task

from celery_guardrails import GuardedTask, Policy
from celery_guardrails.app.guardrails import Guardrails
from tests.unit.optioned import OWN, WAYS, NewApp, declare, effective_of


def test_celerys_defaults_on_a_class_that_is_bound_are_not_its_own(new_app: NewApp) -> None:
    """Celery writes `acks_late` on each class that it binds, and a class derived from a registered one has them."""
    app = new_app({"guard": ["shop.*"]})
    Guardrails(app)

    class Mail(Task):
        name = "shop.mail"

        def run(self) -> None: ...

    class Early(Mail):
        name = "shop.early"
        acks_late = False

    app.register_task(Mail())

    class Receipt(Mail):
        name = "shop.receipt"

    app.register_task(Receipt())
    app.register_task(Early())
    app.finalize()
    guard = Guardrails.of(app)
    guard.prepare()
    origins = {name: effective_of(app.tasks[name]).provenance["acks"] for name in ("shop.mail", "shop.receipt")}
    assert origins == {"shop.mail": "default", "shop.receipt": "default"}
    assert effective_of(app.tasks["shop.early"]).provenance["acks"] == f"{OWN} (acks_late)"
    assert [app.tasks[f"shop.{name}"].acks_late for name in ("mail", "receipt", "early")] == [True, True, False]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("said", "acks", "origin"),
    [(False, "early", "task_acks_late"), (True, "late", "task_acks_late"), (None, "late", "default")],
)
def test_what_the_application_says_of_acknowledgement(
    new_app: NewApp, way: str, said: bool | None, acks: str, origin: str
) -> None:
    task = declare(new_app, way, conf={} if said is None else {"task_acks_late": said})
    effective = effective_of(task)
    assert (effective.policy.acks, effective.provenance["acks"]) == (acks, origin)
    assert task.acks_late is (acks == "late")


@pytest.mark.parametrize(
    ("name", "namespace"),
    [("task_acks_late", None), ("CELERY_TASK_ACKS_LATE", "CELERY"), ("CELERY_ACKS_LATE", None)],
)
def test_the_application_says_it_by_any_of_celerys_names(new_app: NewApp, name: str, namespace: str | None) -> None:
    module = ModuleType("shop_settings")
    setattr(module, name, False)
    app = Celery("named", broker="memory://", set_as_current=False)
    app.config_from_object(module, namespace=namespace)

    @app.task(shared=False, name="shop.pay", base=GuardedTask)
    def pay() -> None: ...

    app.finalize()
    assert effective_of(app.tasks["shop.pay"]).provenance["acks"] == "task_acks_late"
    assert app.tasks["shop.pay"].acks_late is False


@pytest.mark.parametrize(
    ("conf", "options", "settings", "acks"),
    [
        ({"task_acks_late": False}, {"policy": Policy(acks="late")}, {}, "early"),
        ({"task_acks_late": False}, {}, {"policies": {"shop.*": {"acks": "late"}}}, "early"),
        ({"task_acks_late": False}, {}, {"policy": {"acks": "late"}}, "early"),
        ({"task_acks_late": False}, {"acks_late": True}, {}, "late"),  # as in Celery
        ({"task_acks_late": False}, {"acks_late": True, "policy": Policy(acks="early")}, {}, "early"),
        ({"task_acks_late": True}, {"acks_late": False}, {}, "early"),
        ({"task_acks_late": True}, {"policy": Policy(acks="early")}, {}, "early"),
        ({"task_acks_late": True}, {}, {"policy": {"acks": "early"}}, "early"),
        ({"task_annotations": {"*": {"acks_late": False}}}, {"policy": Policy(acks="late")}, {}, "early"),
        ({"task_annotations": {"*": {"acks_late": True}}}, {"policy": Policy(acks="early")}, {}, "early"),
        ({"task_annotations": {"*": {"acks_late": True}}, "task_acks_late": False}, {}, {}, "late"),
        ({}, {"acks_late": False, "policy": Policy(acks="late")}, {}, "late"),
        ({}, {"acks_late": False}, {"policy": {"acks": "late"}}, "early"),
    ],
)
def test_who_wins_about_acknowledgement(
    new_app: NewApp, conf: dict[str, Any], options: dict[str, Any], settings: dict[str, Any], acks: str
) -> None:
    task = declare(new_app, "base class", settings, conf, **options)
    assert effective_of(task).policy.acks == acks
    Guardrails.of(task.app).prepare()
    assert task.acks_late is (acks == "late")
