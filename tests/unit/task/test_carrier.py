"""`map`, `starmap` and `chunks`: which messages have a carrier, what it takes from the inner task, and eager mode."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task
from kombu.serialization import dumps

from celery_guardrails import GuardedTask, Guardrails, clock
from celery_guardrails.app.carried import CARRIERS, arguments_of, carried_items, carried_name, carrier_of
from celery_guardrails.app.guardrails import is_plain
from celery_guardrails.cli.cancel import cancelled_letter
from celery_guardrails.letters.preview import preview_items
from celery_guardrails.redaction import Redactor
from celery_guardrails.transport.publisher import Envelope
from celery_guardrails.transport.waiting.protocol import WaitingTask


def inner(app: Celery, quick: Any, **options: Any) -> Any:
    @quick(app, name="unit.inner", max_attempts=3, **options)
    def inner(item: int) -> int:
        return item

    app.finalize()
    return app.tasks["unit.inner"]


def says(task: str) -> dict[str, Any]:
    return {"task": {"task": task, "args": [], "kwargs": {}}, "it": [1, 2]}


@pytest.mark.parametrize("task_cls", [Task, GuardedTask])
def test_a_carrier_takes_policy_and_acknowledgement_from_its_task(new_app: Any, quick: Any, task_cls: Any) -> None:
    app = new_app({})
    app.task_cls = task_cls
    task = inner(app, quick, acks="early", throws=(KeyError,))
    guard = Guardrails.of(app)
    guard.prepare()
    for name in CARRIERS:
        registered = app.tasks[name]
        carrier = carrier_of(registered, (), says("unit.inner"))
        assert carrier.name == name
        assert carrier.acks_late is False
        assert carrier.throws == (KeyError,)
        assert guard.policy_of(carrier) is guard.policy_of(task)
        assert not is_plain(carrier)
        assert carrier_of(registered, (), says("unit.inner")) is carrier
        assert registered.acks_late == bool(app.conf.task_acks_late)
    assert not [one.name for one in guard.guarded_tasks() if one.name.startswith("celery.")]


@pytest.mark.parametrize("task_cls", [Task, GuardedTask])
def test_other_messages_have_none(new_app: Any, quick: Any, task_cls: Any) -> None:
    app = new_app({})
    app.task_cls = task_cls

    @app.task(shared=False, name="unit.plain", base=Task)
    def plain() -> None: ...

    inner(app, quick)
    starmap = app.tasks["celery.starmap"]
    for kwargs in (says("unit.plain"), says("unit.gone"), says("celery.backend_cleanup"), {}, {"task": 7}, None, 5):
        assert carrier_of(starmap, (), kwargs) is None
    assert carrier_of(app.tasks["celery.group"], (), says("unit.inner")) is None


def test_the_kill_switch_leaves_them_celerys(new_app: Any, quick: Any) -> None:
    app = new_app({"enabled": False})
    inner(app, quick)
    assert carrier_of(app.tasks["celery.map"], (), says("unit.inner")) is None


@pytest.mark.parametrize("task_cls", [Task, GuardedTask])
def test_in_eager_mode_the_policy_holds_too(new_app: Any, quick: Any, count: SimpleNamespace, task_cls: Any) -> None:
    app = new_app({})
    app.task_cls = task_cls

    @quick(app, name="unit.flaky", max_attempts=3)
    def flaky(item: int) -> int:
        count.runs += 1
        if count.runs < 3:
            raise ConnectionError("away")
        return item

    app.finalize()
    assert flaky.map([5, 6]).apply_async().get() == [5, 6]
    assert count.runs == 4
    count.runs = -10
    result = flaky.starmap([(5,), (6,)]).apply_async()
    assert isinstance(result.result, ConnectionError)
    (letter,) = Guardrails.of(app).captured
    assert letter.task == "unit.flaky"
    assert letter.preview.args == "celery.starmap, 2 items: [(5,), (6,)]"


def test_an_items_retry_by_hand_is_the_messages_in_eager_mode(new_app: Any, quick: Any, count: SimpleNamespace) -> None:
    app = new_app({})

    @quick(app, name="unit.again", bind=True, max_attempts=3)
    def again(self: Any, item: int) -> int:
        count.runs += 1
        if count.runs < 3:
            raise self.retry(exc=ValueError("not named as transient"))
        return item

    app.finalize()
    assert again.map([5]).apply_async().get() == [5]
    assert count.runs == 3


def test_a_direct_call_of_a_task_in_another_task_is_no_item(new_app: Any, quick: Any) -> None:
    app = new_app({})

    @quick(app, name="unit.called", bind=True)
    def called(self: Any) -> None:
        raise self.retry(exc=ValueError("the caller's to see"))

    @quick(app, name="unit.caller", max_attempts=1)
    def caller() -> str:
        try:
            called()
        except ValueError as exc:
            return str(exc)
        return "nothing"

    app.finalize()
    assert caller.delay().get() == "the caller's to see"


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "found"),
    [
        ("celery.map", (), {"task": {"task": "a"}, "it": [1, (2, 3)]}, ("a", [(1,), ((2, 3),)])),
        ("celery.starmap", [{"task": "a"}, [[1], [2, 3]]], {}, ("a", [[1], [2, 3]])),
        ("celery.chunks", (), {"task": "a", "it": [(1,)], "n": 2}, ("a", [(1,)])),
        ("celery.starmap", (), {"task": {"task": 5}, "it": 7}, ("", [])),
        ("celery.starmap", None, None, ("", [])),
        ("celery.chord", (), {"task": {"task": "a"}, "it": []}, ("", [])),
    ],
)
def test_reading_a_message(name: str, args: Any, kwargs: Any, found: tuple[str, list[Any]]) -> None:
    assert (carried_name(name, args, kwargs), carried_items(name, args, kwargs)) == found


@pytest.mark.parametrize("payload", [None, 5, "text", [], [[1]], {"args": [1]}])
def test_a_payload_that_is_no_tasks_says_nothing(payload: Any) -> None:
    assert carried_name("celery.map", *arguments_of(payload)) == ""


def test_many_items_are_cut() -> None:
    shown = preview_items("celery.map", [(n,) for n in range(1500)], ["n"], Redactor())
    assert shown.args.startswith("celery.map, the first 100 of 1,500 items: [(0,), (1,)")
    assert shown.truncated


def test_one_that_is_cancelled_while_it_waits_is_a_letter_of_the_inner_task(new_app: Any, quick: Any) -> None:
    app = new_app({})
    inner(app, quick, owner="shop", redact=("item",))
    body = dumps(((), says("unit.inner"), {}), "json")[2]
    headers = {"task": "celery.map", "id": "t-1", "retries": 1}
    envelope = Envelope(body.encode(), "", "unit.tasks", "application/json", "utf-8", headers, {})
    now = clock.now()
    waiting = WaitingTask("w-1", "celery.map", "t-1", "unit.tasks", now, 2, envelope)
    letter, policy = cancelled_letter(Guardrails.of(app), waiting, "ada@here", "wrong address", now)
    assert (letter.task, letter.owner, policy.owner) == ("unit.inner", "shop", "shop")
    assert letter.preview.args == "celery.map, 2 items: [('[redacted]',), ('[redacted]',)]"
