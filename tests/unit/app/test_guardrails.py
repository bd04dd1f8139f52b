"""How guardrails gets into an application: once, whenever its tasks are registered, from whichever settings."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
from celery import Celery, Task

from celery_guardrails import GuardedTask, Policy
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.in_force import is_guarded, under_guard_by
from celery_guardrails.errors import ConfigurationError
from celery_guardrails.task.adopt import adopt
from celery_guardrails.worker.main.steps import GuardStep

NewApp = Callable[..., Celery]


def plain(app: Celery, name: str, **options: Any) -> Task:
    @app.task(name=name, shared=False, **options)
    def body() -> str:
        return name

    return body


def test_the_first_guarded_task_installs_it_once(new_app: NewApp) -> None:
    app = new_app()
    plain(app, "shop.a", base=GuardedTask)
    plain(app, "shop.b", base=GuardedTask)
    app.finalize()
    assert Guardrails.of(app) is Guardrails.of(app)
    assert [task.name for task in Guardrails.of(app).guarded_tasks()] == ["shop.a", "shop.b"]
    assert [step.rpartition(":")[2] for step in app.steps["worker"]].count("GuardStep") == 1


def test_all_threads_get_the_same(new_app: NewApp) -> None:
    for _ in range(20):
        app, found, barrier = new_app(), [], threading.Barrier(4)

        def get(app: Any = app, found: list[Any] = found, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            found.append(Guardrails.of(app))

        threads = [threading.Thread(target=get) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, found))) == 1


def test_a_proxy_of_the_application_is_the_application(new_app: NewApp) -> None:
    from celery.local import Proxy

    app = new_app()
    assert Guardrails.of(Proxy(lambda: app)) is Guardrails.of(app)


@pytest.mark.parametrize("when", ["before tasks", "after tasks", "after finalize", "after a guarded task"])
def test_names_come_under_guard_whenever_it_is_installed(new_app: NewApp, when: str) -> None:
    app = new_app()
    if when == "before tasks":
        Guardrails(app, guard=["vendor.*"])
    task = plain(app, "vendor.sync")
    plain(app, "other.sync")
    if when == "after a guarded task":
        plain(app, "shop.a", base=GuardedTask)
        app.finalize()
    if when == "after tasks":
        Guardrails(app, guard=["vendor.*"])
    app.finalize()
    if when in ("after finalize", "after a guarded task"):
        Guardrails(app, guard=["vendor.*"])
    assert is_guarded(app.tasks["vendor.sync"])
    assert under_guard_by(app.tasks["vendor.sync"]) == "guard pattern vendor.*"
    assert not is_guarded(app.tasks["other.sync"])
    assert task.delay().result == "vendor.sync"


def test_a_task_registered_later_is_under_guard_when_a_worker_starts(new_app: NewApp) -> None:
    app = new_app({"guard": ["vendor.*"]})
    Guardrails(app)
    app.finalize()
    task = plain(app, "vendor.late")
    assert task.name == "vendor.late"
    Guardrails.of(app).prepare()
    assert is_guarded(app.tasks["vendor.late"])


def test_patterns_of_code_and_settings_add_up(new_app: NewApp) -> None:
    app = new_app({"guard": ["b.*"]})
    Guardrails(app, guard=["a.*"])
    assert Guardrails(app, guard=["c.*", "a.*"]).patterns == ("a.*", "c.*", "b.*")
    for name in ("a.x", "b.x", "c.x", "d.x"):
        plain(app, name)
    app.finalize()
    assert [task.name for task in Guardrails.of(app).guarded_tasks()] == ["a.x", "b.x", "c.x"]


def test_the_most_specific_pattern_is_the_one_named(new_app: NewApp) -> None:
    app = new_app({"guard": ["*", "vendor.*", "vendor.mail"]})
    Guardrails(app)
    plain(app, "vendor.mail")
    plain(app, "vendor.sync")
    app.finalize()
    assert under_guard_by(app.tasks["vendor.mail"]) == "guard pattern vendor.mail"
    assert under_guard_by(app.tasks["vendor.sync"]) == "guard pattern vendor.*"


def test_a_wide_pattern_leaves_celerys_own_tasks_alone(new_app: NewApp) -> None:
    app = new_app({"guard": ["*"]})
    Guardrails(app)
    app.finalize()
    assert Guardrails.of(app).guarded_tasks() == []
    assert not is_guarded(app.tasks["celery.chord_unlock"])


def test_two_applications_know_nothing_of_each_other(new_app: NewApp) -> None:
    one, two = new_app({"environment": "one", "guard": ["x.*"]}), new_app({"environment": "two"})
    for app in (one, two):
        Guardrails(app)
        plain(app, "x.task")
        plain(app, "shop.mail", base=GuardedTask, policy=Policy(owner=app.conf.guardrails["environment"]))
        app.finalize()
    assert (is_guarded(one.tasks["x.task"]), is_guarded(two.tasks["x.task"])) == (True, False)
    for app, name in ((one, "one"), (two, "two")):
        guard = Guardrails.of(app)
        assert guard.settings.environment == name
        assert guard.policy_of(app.tasks["shop.mail"]).policy.owner == name


def test_settings_by_namespace(new_app: NewApp) -> None:
    module = ModuleType("shop_settings")
    module.CELERY_GUARDRAILS = {"environment": "spaced"}  # type: ignore[attr-defined]
    app = new_app()
    app.config_from_object(module, namespace="CELERY")
    assert Guardrails.of(app).settings.environment == "spaced"


def test_settings_by_a_lowercase_module(new_app: NewApp) -> None:
    module = ModuleType("shop_settings")
    module.guardrails = {"environment": "lower"}  # type: ignore[attr-defined]
    app = new_app()
    app.config_from_object(module)
    assert Guardrails.of(app).settings.environment == "lower"


def test_the_environment_wins_over_the_settings(new_app: NewApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDRAILS_ENVIRONMENT", "from outside")
    assert Guardrails.of(new_app({"environment": "inside"})).settings.environment == "from outside"
    assert Guardrails.of(new_app()).settings.environment == "from outside"


def test_wrong_settings_are_faults_and_do_not_break_finalize(new_app: NewApp) -> None:
    app = new_app({"guard": ["x.*"], "enviroment": "x", "slack": {"chanel": "#x"}})
    Guardrails(app)
    plain(app, "x.a")
    app.finalize()
    faults = Guardrails.of(app).faults()
    assert {fault.setting for fault in faults} == {"enviroment", "slack.chanel"}
    with pytest.raises(ConfigurationError):
        Guardrails.of(app).prepare()


def test_wrong_settings_stop_a_worker_with_one_plain_message(new_app: NewApp) -> None:
    app = new_app({"enviroment": "x"})
    with pytest.raises(click.ClickException, match="environment"):
        GuardStep(SimpleNamespace(app=app))


def test_wrong_settings_leave_a_failing_task_as_it_was(new_app: NewApp) -> None:
    """A producer or a test does not start a worker: nobody stops it, so nothing may change."""
    app = new_app({"enviroment": "x"})

    @app.task(base=GuardedTask, name="shop.bug", shared=False)
    def bug() -> None:
        raise KeyError("the task's own")

    assert isinstance(bug.delay().result, KeyError)


def test_protocol_1_is_a_fault(new_app: NewApp) -> None:
    (fault,) = Guardrails.of(new_app(task_protocol=1)).faults()
    assert (fault.setting, fault.value, fault.suggestion) == ("task_protocol", "1", "write 2")


@pytest.mark.parametrize(
    ("options", "policy", "late"),
    [
        ({}, Policy(), True),
        ({}, Policy(acks="early"), False),
        ({}, Policy(acks="late"), True),
        ({"acks_late": False}, Policy(), False),
        ({"acks_late": False}, Policy(acks="late"), True),
        ({"acks_late": True}, Policy(), True),
        ({"acks_late": True}, Policy(acks="early"), False),
    ],
)
def test_when_a_task_is_acknowledged(new_app: NewApp, options: dict[str, Any], policy: Policy, late: bool) -> None:
    app = new_app()
    plain(app, "shop.mail", base=GuardedTask, policy=policy, **options)
    Guardrails.of(app).prepare()
    assert app.tasks["shop.mail"].acks_late is late


def test_a_class_that_derives_from_a_registered_one_has_set_nothing_itself(new_app: NewApp) -> None:
    app = new_app()

    class Mail(GuardedTask):
        name = "shop.mail"

        def run(self) -> None: ...

    app.register_task(Mail())

    class Receipt(Mail):
        name = "shop.receipt"

    app.register_task(Receipt())

    class Early(GuardedTask):
        name = "shop.early"
        acks_late = False

        def run(self) -> None: ...

    app.register_task(Early())

    class Earlier(Early):
        name = "shop.earlier"

    app.register_task(Earlier())
    Guardrails.of(app).prepare()
    late = {name: app.tasks[name].acks_late for name in ("shop.mail", "shop.receipt", "shop.early", "shop.earlier")}
    assert late == {"shop.mail": True, "shop.receipt": True, "shop.early": False, "shop.earlier": False}


def test_the_kill_switch_leaves_acknowledgement_alone(new_app: NewApp) -> None:
    app = new_app({"enabled": False})
    plain(app, "shop.mail", base=GuardedTask)
    Guardrails.of(app).prepare()
    assert app.tasks["shop.mail"].acks_late is False


def test_adopting_twice_is_adopting_once(new_app: NewApp) -> None:
    app = new_app()
    task = plain(app, "vendor.sync")
    app.finalize()
    adopt(app.tasks["vendor.sync"], "vendor.*")
    cls = type(app.tasks["vendor.sync"])
    adopt(app.tasks["vendor.sync"], "*")
    assert type(app.tasks["vendor.sync"]) is cls
    assert under_guard_by(task) == "guard pattern vendor.*"


def test_an_application_that_nobody_needs_any_more_is_let_go() -> None:
    program = (
        "import gc, weakref\n"
        "from celery import Celery\n"
        "from celery_guardrails import GuardedTask\n"
        "from celery_guardrails.app.guardrails import Guardrails\n"
        "app = Celery('x', set_as_current=False)\n"
        "task = app.task(base=GuardedTask, shared=False, name='x.y')(lambda: 1)\n"
        "Guardrails(app)\n"
        "gone = weakref.ref(app)\n"
        "app.close()\n"
        "del app, task\n"
        "gc.collect()\n"
        "assert gone() is None\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_second_installation_keeps_what_the_first_captured(new_app: NewApp) -> None:
    app = new_app()

    @app.task(base=GuardedTask, name="shop.bug", shared=False)
    def bug() -> None:
        raise KeyError("x")

    bug.delay()
    before = Guardrails.of(app)
    assert before.publisher
    after = Guardrails(app, guard=["vendor.*"])
    assert len(before.captured) == len(after.captured) == 1
    assert after.publisher is before.publisher
