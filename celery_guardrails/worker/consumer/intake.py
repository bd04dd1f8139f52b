"""What a worker does with a message that never becomes a task: a dead letter first, then what Celery does.

    received ── shape ── strategy ──> a task
                  └─ unknown, unreadable, misshapen ──> letter taken? ── yes ──> Celery's callback: reject or ack
                                                                     └─ no ───> unacknowledged, tried again

Owns what happens in Celery's four callbacks and in its handler of messages (`consumer.py` calls this). Nothing in a
message may end the worker.
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
from celery_guardrails.policy import Policy
from celery_guardrails.policy.decision import Reason
from celery_guardrails.seams import INTAKE, holds
from celery_guardrails.transport.properties import UNREAD, read_whatever_comes
from celery_guardrails.transport.routing import consumed_from
from celery_guardrails.worker.consumer.shape import shape_problem
from celery_guardrails.worker.consumer.unreadable import letter_of, try_to_publish
from celery_guardrails.worker.failure import sentry
from celery_guardrails.worker.failure.tracing import FailureSpan
from celery_guardrails.worker.main.shutdown import is_ending

__all__ = ["RETRY_SECONDS", "Intake"]

logger = logging.getLogger("celery_guardrails.worker")

RETRY_SECONDS = 30.0
"""Seconds until the letters that neither broker nor spool took are tried again."""

# Unacknowledged messages beyond this number use up the prefetch count, so that memory does not fill with them.
_SPARE = 100


@dataclass(frozen=True, slots=True)
class _Held:
    """A message whose letter neither broker nor spool took; `settle` is what Celery does with the message."""

    message: Any
    letter: Letter
    settle: Callable[[], Any]


class _GuardedNames(dict[str, bool]):
    """Whether a task is under guard, by its name. Each name is looked up once; an unknown name is a KeyError."""

    def __init__(self, app: Celery) -> None:
        super().__init__()
        self._app = app

    def __missing__(self, name: str) -> bool:
        found = self[name] = is_guarded(self._app.tasks[name]) and not BUILT_IN.match(name)
        return found


class Intake(bootsteps.StartStopStep):  # type: ignore[misc]
    """Handles a worker's messages before Celery does. With `enabled: False` it does nothing."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._consumer = consumer
        self._held: deque[_Held] = deque()
        self._is_scheduled = False
        self._guard = Guardrails.of(consumer.app)
        self.enabled = self._guard.settings.enabled and holds(INTAKE)
        if self.enabled:
            consumer.intake = self

    def start(self, consumer: Any) -> None:
        """Called when the connection is open, and before the first message."""
        if consumer.connection.transport.driver_type == "amqp":
            read_whatever_comes()

    def stop(self, consumer: Any) -> None:
        """Forget the held messages: the connection is over, and the broker delivers them again."""
        self._held.clear()
        self._is_scheduled = False

    def on_unknown_message(self, message: Any, celery: Callable[[], Any]) -> None:
        """Dead-letter a message that names no task, then let Celery settle it."""
        unread = message.properties.get(f"{UNREAD}_because")
        problem = InvalidTaskError(f"its properties: {unread}" if unread else "the message names no task")
        self._dead_letter(message, Reason.UNDECODABLE, problem, celery)

    def on_unknown_task(self, message: Any, celery: Callable[[], Any]) -> None:
        """Dead-letter a message whose task is not registered, then let Celery settle it."""
        self._dead_letter(message, Reason.UNKNOWN_TASK, NotRegistered(), celery)

    def on_invalid_task(self, message: Any, exc: Any, celery: Callable[[], Any]) -> None:
        """Dead-letter a message that cannot be read, or makes no request, then let Celery settle it."""
        self._dead_letter(message, Reason.UNDECODABLE, exc, celery)

    def handler(self, handle: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Celery's handler of messages; the shape of each message is checked before, and errors of reading it after."""
        consumer, app = self._consumer, self._guard.app
        guarded = _GuardedNames(app)

        def on_task_received(message: Any) -> Any:
            try:
                headers = message.headers
                name = headers["task"] if "task" in headers else message.payload["task"]  # the latter: protocol 1
                payload = message.payload
                ours = guarded[name] or (name in CARRIERS and carrier_in(app.tasks[name], payload) is not None)
                problem = shape_problem(headers, payload, app, ours)
            except Exception:  # noqa: BLE001 Celery finds the fault itself, in the next lines
                problem = None
            try:
                if problem is None:
                    return handle(message)
                return consumer.on_invalid_task(None, message, InvalidTaskError(problem))
            except Exception as exc:
                if not self._is_message_fault(message, exc):
                    raise
                return consumer.on_invalid_task(None, message, exc)

        return on_task_received

    def _is_message_fault(self, message: Any, exc: Exception) -> bool:
        """Whether reading the message raised this exception, and not running a task or a lost connection."""
        if message.acknowledged or self._was_handed_over(exc.__traceback__) or self._is_ending():
            return False
        errors = (*self._consumer.connection_errors, *self._consumer.channel_errors)
        # kombu's Redis counts a KeyError as a lost connection: for a missing header the worker would reconnect for ever
        return not isinstance(exc, tuple(error for error in errors if not issubclass(KeyError, error)))

    def _is_ending(self) -> bool:
        """Whether the pool has ended or is ending: then another worker gets the messages that it does not take."""
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
        with FailureSpan(reason.value, message.headers) as span:
            try:
                letter = letter_of(
                    self._guard, message, reason, problem, self._consumer.hostname, self._queues(message)
                )
            except Exception:
                logger.warning("a message stays unacknowledged: no dead letter could be made of it", exc_info=True)
                return
            span.explain(letter.failure.type, letter.failure.message)
            is_taken = try_to_publish(self._guard, letter, self._queue(letter))
        held = _Held(message, letter, settle)
        if is_taken:
            self._settle(held)
        else:
            self._hold(held)

    def _settle(self, held: _Held) -> None:
        """Let Celery settle a message whose letter is safe. If Celery fails on it, reject the message here."""
        message = held.message
        try:
            message.headers = without_claim(message.headers or {})  # Celery logs the headers
            with sentry.one_event(self._facts(held.letter)):
                held.settle()
        except Exception as exc:  # noqa: BLE001 the letter is safe, whatever Celery raises
            logger.warning("Celery failed on a message that is dead-lettered: %s: %s", type(exc).__name__, exc)
        try:
            if not message.acknowledged:
                message.reject()
        except Exception as exc:  # noqa: BLE001 the broker then delivers it again, and its letter is the same
            words = "a message that is dead-lettered could not be rejected, and is delivered again: %s: %s"
            logger.warning(words, type(exc).__name__, exc)

    def _hold(self, held: _Held) -> None:
        self._held.append(held)
        if len(self._held) <= _SPARE:
            self._consumer.qos.increment_eventually()
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._consumer.timer.call_after(RETRY_SECONDS, self._consumer.call_soon, (self._retry_held,))

    def _retry_held(self) -> None:
        self._is_scheduled = False
        while self._held:
            held = self._held[0]
            if not try_to_publish(self._guard, held.letter, self._queue(held.letter)):
                self._schedule()
                return
            self._held.popleft()
            if len(self._held) < _SPARE:
                self._consumer.qos.decrement_eventually()
            self._settle(held)

    def _queues(self, message: Any) -> list[str]:
        """The queue that the message came from, if the broker says so; else all queues that are consumed."""
        consumer = self._consumer.task_consumer
        if consumer is None:
            return []
        queue = consumed_from(message) if isinstance(message.delivery_info, dict) else None
        return [queue] if queue is not None else [queue.name for queue in consumer.queues]

    def _queue(self, letter: Letter) -> str | None:
        """The dead-letter queue of the task that the message names."""
        return self._policy(letter).dead_letter_queue

    def _facts(self, letter: Letter) -> sentry.Facts:
        policy, settings = self._policy(letter), self._guard.settings
        return sentry.Facts(letter, policy, self._guard.redactor(policy), settings.alerts.group_by)

    def _policy(self, letter: Letter) -> Policy:
        """The policy of the task that the message names."""
        task = self._guard.app.tasks.get(letter.task)
        return Policy() if task is None or not is_guarded(task) else self._guard.policy_of(task).policy
