"""Workers on Redis: they take messages by script, and threads of their own keep messages and give them back.

Owns the consumer's step that sets this up; `transport/redis/keeper.py` has the threads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery import VERSION, bootsteps
from celery.exceptions import WorkerShutdown
from celery.platforms import EX_FAILURE
from celery.worker import state

from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.app.topology import dead_letter_queues
from celery_guardrails.transport.redis.gathering import Gathering
from celery_guardrails.transport.redis.held import Custody
from celery_guardrails.transport.redis.install import take_safely
from celery_guardrails.transport.redis.keeper import Keeper
from celery_guardrails.transport.redis.trouble import PAUSE
from celery_guardrails.worker.consumer.unreadable import dead_letter_raw
from celery_guardrails.worker.main.shutdown import is_ending_cold

__all__ = ["RedisStep"]

logger = logging.getLogger("celery_guardrails.worker")


class RedisStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Has the consumer's connection take messages by script, and starts the keeper; does nothing on other brokers."""

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self.keeper: Keeper | None = None
        self._gathering: Gathering | None = None
        self._allowed = self._reading = False
        super().__init__(consumer, **kwargs)
        self._consumer, self._guard = consumer, Guardrails.of(consumer.app)
        self._custody = Custody(self._dead_letter_raw, lambda: _running(consumer))
        if self._guard.settings.enabled:
            self._gathering = Gathering(self._custody)
            self._custody.gather = self._gathering.add
            self._custody.enough = lambda: _enough(consumer.pool)
            consumer.taking = self

    def start(self, consumer: Any) -> None:
        """Start the keeper, once."""
        if self.keeper is not None:
            self.keeper.start()

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Called by Celery when its event loop begins, also after a lost connection: gather acknowledgements."""
        if self.keeper is not None and self._gathering is not None:
            hub.on_tick.add(self._gathering.turn)
            self._gathering.open()

    def close(self, consumer: Any) -> None:
        """Stop gathering: the event loop has ended, so from now on each acknowledgement is sent alone."""
        if self._gathering is not None:
            self._gathering.close()

    def stop(self, consumer: Any) -> None:
        """After a lost connection, give the old channels up. Running tasks keep their messages in any case."""
        self.close(consumer)
        if self.keeper is not None and consumer.blueprint.state == bootsteps.RUN:
            self.keeper.custody.retire()

    def terminate(self, consumer: Any) -> None:
        """Do nothing: running tasks keep their messages."""

    def shutdown(self, consumer: Any) -> None:
        """End the keeper, because no task runs any more."""
        if self.keeper is not None:
            self.keeper.end()

    def connect_for_reading(self, connect: Callable[[], Any]) -> Any:
        """Open the connection that messages are read from. Celery's `connect` calls `open` for it."""
        self._reading = True
        try:
            return connect()
        finally:
            self._reading = False

    def open(self, connection: Any, connect: Callable[[], Any]) -> Any:
        """Open a connection in Celery's way. The connection that messages are read from takes them by script."""
        reading, self._reading = self._reading, False
        if not reading:
            return connect()
        try:
            if take_safely(connection, self._custody) and self.keeper is None:
                self.keeper = Keeper(self._consumer.app, self._custody, read=True)
        except Exception:
            logger.warning("this worker takes messages as kombu does, which can lose them", exc_info=True)
        self._await_writes()  # wait before, too: a server that cannot save its data refuses even the first command
        connected = connect()
        self._await_writes()
        if not self._allowed:
            self._allowed = self._has_rights()
        self.start(self._consumer)
        return connected

    def _dead_letter_raw(self, raw: bytes, queue: str, tag: str) -> bool:
        return dead_letter_raw(self._guard, raw, queue, tag)

    def _await_writes(self) -> None:
        """Wait while the server refuses writes: next Celery declares queues, and a refusal of that ends the worker."""
        while self.keeper is not None and self.keeper.is_refused():
            state.maybe_shutdown()
            time.sleep(PAUSE)

    def _has_rights(self) -> bool:
        """Whether this user has all rights that guardrails needs; `False` if the server could not be asked now.

        Raises:
            WorkerShutdown: the user lacks one. Without scripts a message can be lost, and retries and letters have no
                place.
        """
        if self.keeper is None:
            return True
        try:
            queues = list(self._consumer.app.amqp.queues.consume_from)
            missing = self.keeper.missing(dead_letter_queues(self._guard), queues)
        except Exception:
            logger.debug("the rights on Redis could not be checked", exc_info=True)
            return False
        if missing is None:
            return True
        logger.critical(
            "%s: guardrails could lose tasks, so this worker does not start. Give the user this right, %s",
            missing, missing.fix,
        )  # fmt: skip
        raise WorkerShutdown(EX_FAILURE)


def _enough(pool: Any) -> int:
    """How many messages keep a pool busy: two for each process or thread, one that runs and one that waits."""
    try:
        return 2 * int(pool.num_processes or 0)
    except AttributeError:  # the pool is just being restarted
        return 0


def _running(consumer: Any) -> set[str]:
    """The tags of tasks that go on when the connection is lost; none if Celery cancels them, or the worker ends."""
    if (
        VERSION[:2] < (5, 7)  # before 5.7, Celery does not get the results of tasks that outlive a connection
        or consumer.blueprint.state != bootsteps.RUN
        or is_ending_cold()
        or consumer.app.conf.worker_cancel_long_running_tasks_on_connection_loss
    ):
        return set()
    going_on = set(state.active_requests)
    if "flush" not in vars(consumer.pool):  # only prefork takes back tasks that it has not begun
        going_on.update(state.reserved_requests)
    return {str(request.message.delivery_tag) for request in going_on}
