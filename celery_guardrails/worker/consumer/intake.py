"""What a worker does with a message that never becomes a task: a dead letter first, then what Celery does.

    received ── shape ── strategy ──> a task
                  └─ unknown, unreadable, misshapen ──> letter kept? ── yes ──> Celery's callback: reject or acknowledge
                                                                    └─ no ───> unacknowledged, tried again

Owns the way in: what happens in Celery's four callbacks and its handler of messages (`consumer.py` has their places).
Nothing that a message holds may end the worker.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from celery import Celery, bootsteps
from celery.exceptions import InvalidTaskError, NotRegistered

from celery_guardrails.app.carried import CARRIERS, carrier_in
from celery_guardrails.app.guardrails import BUILT_IN, Guardrails
from celery_guardrails.app.in_force import is_guarded
from celery_guardrails.letters.header import without_claim
from celery_guardrails.letters.record import Letter
from celery_guardrails.policy.decision import Reason
from celery_guardrails.seams import INTAKE, holds
from celery_guardrails.transport.properties import UNREAD, read_whatever_comes
from celery_guardrails.transport.routing import consumed_from
from celery_guardrails.worker.consumer.shape import misshapen
from celery_guardrails.worker.consumer.unreadable import letter_of, try_to_publish
from celery_guardrails.worker.main.shutdown import is_ending

__all__ = ["RETRY_SECONDS", "Intake"]

logger = logging.getLogger("celery_guardrails.worker")

RETRY_SECONDS = 30.0
"""Seconds until the letters that neither broker nor spool took are tried again."""

# Beyond these, messages that stay unacknowledged use up the prefetch count, so that memory does not fill with them.
_SPARE = 100


@dataclass(frozen=True, slots=True)
class _Held:
    """A message whose letter nobody took; `settle` is what Celery does with it."""

    message: Any
    letter: Letter
    settle: Callable[[], Any]


class _GuardedNames(dict[str, bool]):
    """Which tasks are under guard, looked up once each; an unknown one is a KeyError."""

    def __init__(self, app: Celery) -> None:
        super().__init__()
        self._app = app

    def __missing__(self, name: str) -> bool:
        found = self[name] = is_guarded(self._app.tasks[name]) and not BUILT_IN.match(name)
        return found


class Intake(bootsteps.StartStopStep):  # type: ignore[misc]
    """Stands between a worker's consumer and its messages. With `enabled: False` it does nothing."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._consumer = consumer
        self._held: deque[_Held] = deque()
        self._waits = False
        self._guard = Guardrails.of(consumer.app)
        self.enabled = self._guard.settings.enabled and holds(INTAKE)
        if self.enabled:
            consumer.intake = self

    def start(self, consumer: Any) -> None:
        """The connection is there, and no message has come yet."""
        if consumer.connection.transport.driver_type == "amqp":
            read_whatever_comes()

    def stop(self, consumer: Any) -> None:
        """The connection is over: the broker delivers again what was not acknowledged."""
        self._held.clear()
        self._waits = False

    def on_unknown_message(self, message: Any, celery: Callable[[], Any]) -> None:
        """A message names no task: its letter first, then what Celery does."""
        unread = message.properties.get(f"{UNREAD}_because")
        problem = InvalidTaskError(f"its properties: {unread}" if unread else "the message names no task")
        self._dead_letter(message, Reason.UNDECODABLE, problem, celery)

    def on_unknown_task(self, message: Any, celery: Callable[[], Any]) -> None:
        """Nobody has registered the task that a message names: the same."""
        self._dead_letter(message, Reason.UNKNOWN_TASK, NotRegistered(), celery)

    def on_invalid_task(self, message: Any, exc: Any, celery: Callable[[], Any]) -> None:
        """A message cannot be read, or makes no request: the same."""
        self._dead_letter(message, Reason.UNDECODABLE, exc, celery)

    def handler(self, handle: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Celery's handler of a message, between a look at its shape and a net under it."""
        consumer, app = self._consumer, self._guard.app
        guarded = _GuardedNames(app)

        def on_task_received(message: Any) -> Any:
            try:
                headers = message.headers
                name = headers["task"] if "task" in headers else message.payload["task"]  # the latter: protocol 1
                payload = message.payload
                ours = guarded[name] or (name in CARRIERS and carrier_in(app.tasks[name], payload) is not None)
                problem = misshapen(headers, payload, app, ours)
            except Exception:  # noqa: BLE001 Celery finds out by itself, in the next lines
                problem = None
            try:
                if problem is None:
                    return handle(message)
                return consumer.on_invalid_task(None, message, InvalidTaskError(problem))
            except Exception as exc:
                if not self._at_fault(message, exc):
                    raise
                return consumer.on_invalid_task(None, message, exc)

        return on_task_received

    def _at_fault(self, message: Any, exc: Exception) -> bool:
        """Whether an exception came of reading the message, and not of running a task or of a lost connection."""
        if message.acknowledged or self._was_handed_over(exc.__traceback__) or self._is_ending():
            return False
        errors = (*self._consumer.connection_errors, *self._consumer.channel_errors)
        # Redis counts a KeyError as a lost connection: a missing header would have the worker reconnect for ever
        return not isinstance(exc, tuple(error for error in errors if not issubclass(KeyError, error)))

    def _is_ending(self) -> bool:
        """Whether the pool is gone, or going: what cannot be handed to it is for another worker."""
        pool = self._consumer.pool
        return getattr(pool, "_pool", pool) is None or is_ending()

    def _was_handed_over(self, frames: TracebackType | None) -> bool:
        handed = self._consumer.on_task_request
        code = getattr(getattr(handed, "__func__", handed), "__code__", None)
        while frames is not None:
            if frames.tb_frame.f_code is code:
                return True
            frames = frames.tb_next
        return False

    def _dead_letter(self, message: Any, reason: Reason, exc: Any, settle: Callable[[], Any]) -> None:
        problem = exc if isinstance(exc, BaseException) else InvalidTaskError(repr(exc))
        try:
            letter = letter_of(self._guard, message, reason, problem, self._consumer.hostname, self._queues(message))
        except Exception:
            logger.warning("a message stays unacknowledged: no letter could be made of it", exc_info=True)
            return
        held = _Held(message, letter, settle)
        if try_to_publish(self._guard, letter, self._queue(letter)):
            self._settle(held)
        else:
            self._hold(held)

    def _settle(self, held: _Held) -> None:
        """The letter is safe: Celery does what it does, and whatever it stumbles over, the message is settled."""
        message = held.message
        try:
            message.headers = without_claim(message.headers or {})  # Celery logs them
            held.settle()
        except Exception as exc:  # noqa: BLE001 the letter is safe, the rest is Celery's
            logger.warning("Celery failed on a message that is dead-lettered: %s: %s", type(exc).__name__, exc)
        try:
            if not message.acknowledged:
                message.reject()
        except Exception as exc:  # noqa: BLE001 then it comes again, and gives the same letter
            logger.warning("a message that is dead-lettered comes again: %s: %s", type(exc).__name__, exc)

    def _hold(self, held: _Held) -> None:
        self._held.append(held)
        if len(self._held) <= _SPARE:
            self._consumer.qos.increment_eventually()
        self._try_later()

    def _try_later(self) -> None:
        if not self._waits:
            self._waits = True
            self._consumer.timer.call_after(RETRY_SECONDS, self._consumer.call_soon, (self._again,))

    def _again(self) -> None:
        self._waits = False
        while self._held:
            held = self._held[0]
            if not try_to_publish(self._guard, held.letter, self._queue(held.letter)):
                self._try_later()
                return
            self._held.popleft()
            if len(self._held) < _SPARE:
                self._consumer.qos.decrement_eventually()
            self._settle(held)

    def _queues(self, message: Any) -> list[str]:
        """The queue that the message came from where the broker says so, else all that are consumed."""
        consumer = self._consumer.task_consumer
        if consumer is None:
            return []
        queue = consumed_from(message) if isinstance(message.delivery_info, dict) else None
        return [queue] if queue is not None else [queue.name for queue in consumer.queues]

    def _queue(self, letter: Letter) -> str | None:
        """The dead-letter queue of the task that the message names."""
        task = self._guard.app.tasks.get(letter.task)
        if task is None or not is_guarded(task):
            return None
        return self._guard.policy_of(task).policy.dead_letter_queue
