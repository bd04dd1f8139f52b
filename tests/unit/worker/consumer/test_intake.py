"""The way in of a worker's messages, with a consumer that is played: what is dead-lettered, raised or held."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker import state
from kombu import Message

from celery_guardrails import GuardedTask, Guardrails
from celery_guardrails.letters.record import Letter
from celery_guardrails.policy.decision import Reason
from celery_guardrails.worker.consumer import intake
from celery_guardrails.worker.consumer.consumer import guarded_consumer
from celery_guardrails.worker.consumer.intake import RETRY_SECONDS, Intake

NewApp = Callable[..., Celery]


class LostConnection(Exception):
    """What this broker raises when its connection breaks."""


class TaskConsumer:
    """As much of kombu's consumer; RabbitMQ's client keeps, by tag, a method of it to call with each message."""

    def __init__(self) -> None:
        self.queues = [SimpleNamespace(name="shop")]
        self._active_tags = {"mail": "t1"}

    def receive(self, message: Any) -> None: ...


class Consumer:
    """As much of Celery's consumer as the intake touches; notes what happens to it."""

    hostname = "w1"
    connection_errors = (LostConnection, KeyError)
    channel_errors = ()

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.calls: list[Any] = []
        self.timer = SimpleNamespace(call_after=lambda seconds, fun, args: self.calls.append((seconds, fun, args)))
        self.qos = SimpleNamespace(
            increment_eventually=lambda: self.calls.append("more"),
            decrement_eventually=lambda: self.calls.append("less"),
        )
        self.task_consumer: Any = TaskConsumer()
        self.raising: Exception | None = None
        self.pool: Any = SimpleNamespace(_pool="it runs")

    def call_soon(self, fun: Callable[[], None]) -> None:
        fun()

    def on_task_request(self, request: Any) -> None:
        raise ValueError("the pool")

    def on_unknown_message(self, body: Any, message: Any) -> None:
        message.reject()

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        raise OSError("the result backend")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        message.reject()

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        message.ack()

    def create_task_handler(self) -> Callable[[Any], Any]:
        def handle(message: Any) -> str:
            if message.headers.get("hand over"):
                self.on_task_request(message)
            if self.raising is not None:
                raise self.raising
            return "handled"

        return handle


class Channel:
    """Notes how messages were settled."""

    no_ack_consumers: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.settled: list[str] = []

    def basic_ack(self, tag: Any, multiple: bool = False) -> None:
        self.settled.append(f"ack {tag}")

    def basic_reject(self, tag: Any, requeue: bool = False) -> None:
        self.settled.append(f"reject {tag}")


class Scene:
    """One worker: its consumer, its channel, and the letters that left it, unless `refused`."""

    def __init__(self, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:

        @app.task(base=GuardedTask, name="shop.mail", shared=False)
        def mail() -> None: ...

        self.consumer, self.channel = guarded_consumer(Consumer)(app), Channel()
        self.letters: list[Letter] = []
        self.refused = False
        monkeypatch.setattr(intake, "try_to_publish", self._take)
        self.step = Intake(self.consumer)
        self.handle = self.consumer.create_task_handler()
        self.channel.callbacks = {"t1": self.consumer.task_consumer.receive}

    def _take(self, guard: Guardrails, letter: Letter, queue: str | None) -> bool:
        if not self.refused:
            self.letters.append(letter)
        return not self.refused

    def message(self, body: bytes = b"[[], {}, {}]", **headers: Any) -> Message:
        return Message(
            body=body, delivery_tag="1", channel=self.channel, content_type="application/json",
            content_encoding="utf-8", headers={"task": "shop.mail", "id": "x", "retries": 0, **headers},
            delivery_info={"consumer_tag": "t1"},
        )  # fmt: skip


@pytest.fixture
def scene(new_app: NewApp, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(new_app(), monkeypatch)


def test_a_good_message_goes_its_way(scene: Scene) -> None:
    assert scene.handle(scene.message()) == "handled"
    assert (scene.letters, scene.channel.settled) == ([], [])


def test_a_misshapen_one_is_dead_lettered_and_then_rejected(scene: Scene) -> None:
    scene.handle(scene.message(b"[[1]]"))
    assert (scene.letters[0].reason, scene.letters[0].queue) == (Reason.UNDECODABLE, "mail")
    assert scene.channel.settled == ["reject 1"]


@pytest.mark.parametrize("escaped", [ValueError("a date"), KeyError("id"), TypeError("unhashable")])
def test_what_escapes_celery_is_dead_lettered(scene: Scene, escaped: Exception) -> None:
    scene.consumer.raising = escaped
    scene.handle(scene.message())
    assert scene.letters[0].reason is Reason.UNDECODABLE
    assert scene.channel.settled == ["reject 1"]


def test_a_lost_connection_is_celerys_business(scene: Scene) -> None:
    scene.consumer.raising = LostConnection()
    with pytest.raises(LostConnection):
        scene.handle(scene.message())
    assert (scene.letters, scene.channel.settled) == ([], [])


def test_what_fails_once_the_pool_has_it_is_not_the_messages_fault(scene: Scene) -> None:
    with pytest.raises(ValueError, match="the pool"):
        scene.handle(scene.message(**{"hand over": True}))
    assert scene.letters == []


def test_what_fails_once_it_is_acknowledged_is_not_the_messages_fault(scene: Scene) -> None:
    scene.consumer.raising = ValueError("late")
    message = scene.message()
    message.ack()
    with pytest.raises(ValueError, match="late"):
        scene.handle(message)
    assert scene.letters == []


@pytest.mark.parametrize("why", ["the pool is gone", "should_stop", "should_terminate"])
def test_what_fails_in_a_worker_that_ends_is_not_the_messages_fault(
    scene: Scene, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "the pool is gone":
        scene.consumer.pool._pool = None
    else:
        monkeypatch.setattr(state, why, 0)
    scene.consumer.raising = AttributeError("'NoneType' object has no attribute '_processes'")
    with pytest.raises(AttributeError):
        scene.handle(scene.message())
    assert (scene.letters, scene.channel.settled) == ([], [])


def test_a_failing_result_backend_leaves_nothing_unsettled(scene: Scene) -> None:
    scene.consumer.on_unknown_task(None, scene.message(), KeyError("shop.gone"))
    assert scene.letters[0].reason is Reason.UNKNOWN_TASK
    assert scene.channel.settled == ["reject 1"]


def test_the_other_ways_in_are_dead_lettered_too(scene: Scene) -> None:
    scene.consumer.task_consumer = None
    scene.consumer.on_unknown_message({}, scene.message(task=None))
    scene.consumer.on_decode_error(scene.message(b"{"), "not even an exception")
    scene.consumer.on_invalid_task(None, scene.message(), ValueError("eta"))
    assert [letter.reason for letter in scene.letters] == [Reason.UNDECODABLE] * 3
    assert scene.channel.settled == ["reject 1", "ack 1", "reject 1"]


def test_a_letter_that_nobody_takes_is_tried_again(scene: Scene) -> None:
    scene.refused = True
    scene.handle(scene.message(b"[[1]]"))
    scene.handle(scene.message(b"[[2]]"))
    assert scene.channel.settled == []
    assert [call for call in scene.consumer.calls if isinstance(call, str)] == ["more", "more"]
    ((seconds, fun, args),) = [call for call in scene.consumer.calls if not isinstance(call, str)]
    assert seconds == RETRY_SECONDS
    fun(*args)
    assert scene.channel.settled == []
    scene.refused = False
    fun(*args)
    assert (len(scene.letters), scene.channel.settled) == (2, ["reject 1", "reject 1"])
    assert scene.consumer.calls.count("less") == 2


def test_what_is_held_is_forgotten_with_its_connection(scene: Scene) -> None:
    scene.refused = True
    scene.handle(scene.message(b"[[1]]"))
    scene.step.stop(scene.consumer)
    scene.refused = False
    _, fun, args = scene.consumer.calls[-1]
    fun(*args)
    assert (scene.letters, scene.channel.settled) == ([], [])


def test_a_letter_that_cannot_be_made_leaves_the_message(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "letter_of", lambda *_: 1 / 0)
    scene.handle(scene.message(b"[[1]]"))
    assert scene.channel.settled == []


def test_the_kill_switch_touches_nothing(new_app: NewApp) -> None:
    consumer = guarded_consumer(Consumer)(new_app({"enabled": False}))
    assert not Intake(consumer).enabled
    assert consumer.intake is None
    message = Message(body=b"[[1]]", delivery_tag="1", channel=Channel(), headers={"task": "shop.mail", "id": "x"})
    assert consumer.create_task_handler()(message) == "handled"
