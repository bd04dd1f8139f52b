"""Third-party tasks under guard, and Celery's own tasks left alone."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task, chain
from celery.exceptions import Retry

from celery_guardrails import Constant, GuardedTask, Policy
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.in_force import is_guarded, under_guard_by
from celery_guardrails.policy.decision import Reason
from celery_guardrails.task.guarded import GuardMixin
from celery_guardrails.worker.main.request import GuardedRequest

NewApp = Callable[..., Celery]

QUICK = {"guard": ["vendor.*"], "policy": {"backoff": Constant(0), "jitter": "none", "max_attempts": 2}}


@pytest.fixture
def app(new_app: NewApp) -> Celery:
    made = new_app(QUICK)
    Guardrails(made)
    return made


def test_name_signature_and_calls_go_on(app: Celery) -> None:
    @app.task(shared=False, name="vendor.add", bind=True)
    def add(self: Any, x: int, y: int = 0) -> int:
        """Adds."""
        assert self.name == "vendor.add"
        return x + y

    signature = add.s(1)
    app.finalize()
    adopted = app.tasks["vendor.add"]
    assert is_guarded(adopted)
    assert isinstance(adopted, GuardMixin)
    assert (adopted.name, adopted.__doc__, adopted.__module__, type(adopted).__name__) == (
        "vendor.add", "Adds.", __name__, "add",
    )  # fmt: skip
    assert adopted(1, y=2) == add(1, 2) == adopted.run(1, 2) == 3
    assert chain(signature, adopted.s(5)).apply_async().result == 6
    assert add.delay(1, y=4).result == 5
    # what a producer checks before it sends: the arguments
    with pytest.raises(TypeError):
        add.delay(1, 2, 3)


def test_failures_of_an_adopted_task_follow_the_policy(app: Celery, count: SimpleNamespace) -> None:
    @app.task(shared=False, name="vendor.sync", bind=True)
    def sync(self: Any) -> None:
        count.runs += 1
        raise self.retry(exc=ConnectionError("down"))

    app.finalize()
    sync.delay()
    assert count.runs == 2
    (letter,) = Guardrails.of(app).captured
    assert (letter.task, letter.reason) == ("vendor.sync", Reason.ATTEMPTS_EXHAUSTED)


def test_a_call_of_its_own_goes_on_and_is_inside_the_guard(app: Celery, count: SimpleNamespace) -> None:
    class VendorTask(Task):
        name = "vendor.by_class"

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            count.runs += 1
            if count.runs == 1:
                raise ConnectionError("no context")
            return super().__call__(*args, **kwargs)

        def run(self) -> str:
            return "done"

    app.register_task(VendorTask())
    Guardrails.of(app).sweep()  # as a worker does when it starts: registering finalizes first
    assert app.tasks["vendor.by_class"].delay().result == "done"
    assert count.runs == 2
    assert app.tasks["vendor.by_class"]() == "done"
    assert count.runs == 3


def test_celerys_request_class_named_by_a_library_is_no_class_of_its_own(app: Celery) -> None:
    class Own(Task):
        Request = "celery.worker.request:Request"

    @app.task(shared=False, name="vendor.usual", base=Own)
    def usual() -> None: ...

    app.finalize()
    assert app.tasks["vendor.usual"].Request is GuardedRequest


def test_the_kill_switch_leaves_automatic_retries_as_they_were(new_app: NewApp, count: SimpleNamespace) -> None:
    app = new_app({**QUICK, "enabled": False})
    Guardrails(app)

    @app.task(shared=False, name="vendor.sync", autoretry_for=(ValueError,), max_retries=3, default_retry_delay=0)
    def sync() -> None:
        count.runs += 1
        raise ValueError("x")

    app.finalize()
    assert isinstance(sync.delay().result, ValueError)
    assert count.runs == 4


def test_a_mixed_class_keeps_what_it_mixes(new_app: NewApp, count: SimpleNamespace) -> None:
    """As Django's: its task class has `delay_on_commit`, and people mix ours in."""

    class LikeDjangoTask(Task):
        abstract = True

        def delay_on_commit(self, *args: Any, **kwargs: Any) -> Any:
            count.seen.append("committed")
            return self.delay(*args, **kwargs)

        def apply_async(self, *args: Any, **kwargs: Any) -> Any:
            count.seen.append("applied")
            return super().apply_async(*args, **kwargs)

    class Mixed(GuardMixin, LikeDjangoTask):
        abstract = True
        policy = Policy(max_attempts=3, backoff=Constant(0), jitter="none")

    app = new_app({"guard": ["vendor.*"]})
    Guardrails(app)

    @app.task(shared=False, base=Mixed, name="shop.mail")
    def mail() -> None:
        count.runs += 1
        raise ConnectionError("down")

    @app.task(shared=False, base=LikeDjangoTask, name="vendor.mail")
    def vendor_mail() -> str:
        return "sent"

    app.finalize()
    mail.delay_on_commit()
    assert count.runs == 3
    assert count.seen == ["committed", "applied"]
    assert under_guard_by(mail) == "base class"
    assert vendor_mail.delay_on_commit().result == "sent"
    assert under_guard_by(app.tasks["vendor.mail"]) == "guard pattern vendor.*"


def test_an_adopted_tasks_instance_attributes_stay(app: Celery) -> None:
    class Counting(Task):
        name = "vendor.counting"

        def __init__(self) -> None:
            self.opened = ["connection"]

        def run(self) -> list[str]:
            return self.opened

    app.register_task(Counting())
    app.finalize()
    assert app.tasks["vendor.counting"].delay().result == ["connection"]


def test_adopted_tasks_can_be_pickled_by_name(app: Celery) -> None:
    @app.task(shared=False, name="vendor.sync")
    def sync() -> None: ...

    app.finalize()
    assert pickle.dumps(app.tasks["vendor.sync"])


@pytest.fixture
def whole(new_app: NewApp) -> Celery:
    """An application whose every task is guarded, Celery's own among them by inheritance."""
    made = Celery("whole", broker="memory://", backend="cache+memory://", task_cls=GuardedTask, set_as_current=False)
    made.conf.task_always_eager = True
    made.conf.guardrails = {"policy": {"max_attempts": 1}}
    made.finalize()
    return made


def test_with_task_cls_celerys_own_tasks_are_plain(whole: Celery) -> None:
    assert not Guardrails.of(whole).guarded_tasks()
    Guardrails.of(whole).prepare()
    own = [task for name, task in whole.tasks.items() if name.startswith("celery.")]
    assert own
    for task in own:
        assert not task.acks_late


def test_chord_unlock_retries_for_ever(whole: Celery) -> None:
    """It polls for a chord's members: a policy's `max_attempts` would lose the chord."""
    unlock = whole.tasks["celery.chord_unlock"]
    assert isinstance(unlock, GuardedTask)
    for retries in (0, 5, 500):
        unlock.push_request(id="u", args=(), kwargs={}, retries=retries, is_eager=True, called_directly=False)
        try:
            with pytest.raises(Retry) as retry:
                unlock.retry(countdown=7)
        finally:
            unlock.pop_request()
        assert retry.value.when == 7
    assert not Guardrails.of(whole).captured


def test_failures_of_celerys_own_tasks_leave_no_letter(whole: Celery) -> None:
    result = whole.tasks["celery.map"].apply(args=({"task": "no.such.task"}, [1]), throw=False)
    assert result.state == "FAILURE"
    assert not Guardrails.of(whole).captured


def test_other_tasks_of_such_an_application_are_guarded(whole: Celery, count: SimpleNamespace) -> None:
    @whole.task(shared=False, name="shop.mail")
    def mail() -> None:
        count.runs += 1
        raise ConnectionError("down")

    mail.delay()
    assert count.runs == 1
    assert Guardrails.of(whole).captured[0].reason is Reason.ATTEMPTS_EXHAUSTED
