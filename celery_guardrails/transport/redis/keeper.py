"""The threads that keep a process's messages on Redis, and give back messages that nobody holds any more.

They are threads, not a timer of an event loop, because a message must be kept while a solo pool's task runs, while a
worker that shuts down waits for its tasks, and while a guardian waits for its archive. There are two, because keeping
must not wait for the other work: the dead letter of an unreadable item takes as long as the broker needs. They end with
the process. They sleep while the process is stopped, so that other workers then get its messages.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery

from celery_guardrails.policy.taxonomy import classify
from celery_guardrails.transport.redis.held import Custody
from celery_guardrails.transport.redis.rights import Missing, missing
from celery_guardrails.transport.redis.trouble import passing

__all__ = ["Keeper"]

logger = logging.getLogger("celery_guardrails.transport")

_LONGEST_LEASE, _SHORTEST_ROUND, _LONGEST_ROUND = 30.0, 0.5, 10.0
_ANSWER = 2.0
"""Seconds for one answer of Redis. It may be short: nobody waits for the threads, and failed work is tried again."""

Duty = Callable[[Any, Any, Custody], None]


class Keeper:
    """Keeps the messages that a worker holds, and gives back messages that nobody holds any more.

    It renews the lease of each message that the worker has taken, every third of the visibility timeout and at least
    every 30 s. As often, but at least every 10 s and at most every 0.5 s, it puts back the messages whose lease nobody
    has renewed for the whole timeout and those of takes without an answer, and passes on the items in quarantine.

    Args:
        app: the application.
        custody: what the worker holds.
        read: whether to use the broker for reading (`broker_read_url`) and not the one for writing.

    Attributes:
        custody: the argument.
    """

    def __init__(self, app: Celery, custody: Custody, read: bool = False) -> None:
        from celery_guardrails.transport.redis import keeping
        from celery_guardrails.transport.redis.connection import Line

        self.custody = custody
        self._line = Line(app, _ANSWER, read=read)
        self._ended = threading.Event()
        self._failing: set[str] = set()
        self._leave: Duty = keeping.leave
        self._leasing = threading.Thread(
            target=self._work, args=([keeping.lease], 0.1, _LONGEST_LEASE), name="guardrails-redis-lease", daemon=True
        )
        self._restoring = threading.Thread(target=self._restore, name="guardrails-redis-restore", daemon=True)
        self._rounds: Sequence[Duty] = (keeping.restore, keeping.hand_on)

    def start(self) -> None:
        """Start the threads; a further call changes nothing."""
        if self._leasing.ident is None:
            self._leasing.start()
            self._restoring.start()

    def end(self, bound: float = 1.0) -> None:
        """Ask the threads to end, and wait for `bound` seconds at most."""
        self._ended.set()
        if self._restoring.is_alive():
            self._restoring.join(bound)

    def is_refused(self) -> bool:
        """Whether the server refuses writes for now, which is logged once; `False` also if the server is away.

        The test is a push to a list that never exists: it changes nothing.
        """

        def ask(channel: Any, client: Any) -> None:
            client.execute_command("LPUSHX", f"{channel.global_keyprefix}guardrails.never", "")

        try:
            self._line.once(ask)
        except Exception as exc:  # noqa: BLE001 the worker finds out about every other fault itself
            if passing(exc) in {None, "NOPERM"}:
                return False
            self.custody.trouble.note("start", exc)
            return True
        self.custody.trouble.over("start")
        return False

    def missing(self, dead_letters: Sequence[str], queues: Sequence[str]) -> Missing | None:
        """The rights that guardrails needs and this application's user lacks; see `rights.missing`.

        Raises:
            Exception: the server cannot be asked.
        """
        return self._line.once(lambda channel, client: missing(channel, client, dead_letters, queues))

    def forget(self, tag: str) -> None:
        """Remove an item from the quarantine, because it is safe elsewhere.

        Raises:
            redis.exceptions.RedisError: the server cannot be reached, or refuses.
        """
        from celery_guardrails.transport.redis.restore import quarantine_key

        self._line.once(lambda channel, client: client.execute_command("HDEL", quarantine_key(channel), tag))

    def _restore(self) -> None:
        self._work(self._rounds, _SHORTEST_ROUND, _LONGEST_ROUND)
        self._leasing.join(_ANSWER)
        self._do(self._leave)
        self._line.close()

    def _work(self, duties: Sequence[Duty], shortest: float, longest: float) -> None:
        """Do these duties again and again until the end; never raises."""
        while not self._ended.is_set():
            third = min([self._do(duty) for duty in duties])
            self._ended.wait(max(shortest, min(third, longest)))

    def _do(self, duty: Duty) -> float:
        """Do one duty; gives a third of the visibility timeout, or a second after a failure."""
        name = duty.__name__

        def act(channel: Any, client: Any) -> float:
            duty(channel, client, self.custody)
            return float(channel.visibility_timeout) / 3

        try:
            third = self._line.once(act)
        except Exception as exc:  # noqa: BLE001 `note` or `_log` logs it
            if self.custody.trouble.note(name, exc) is None and name not in self._failing:
                self._log(name, exc)
                self._failing.add(name)
            return 1.0
        self._failing.discard(name)
        self.custody.trouble.over(name)
        return third

    def _log(self, name: str, exc: Exception) -> None:
        """Log a duty's first failure; a server that is away is logged once for all duties, in one line."""
        if classify(exc).transient is not True:
            logger.warning("Redis could not be asked (%s), and is asked again", name, exc_info=exc)
        elif not self._failing:
            logger.warning("Redis does not answer, and is asked again: %s", " ".join(str(exc).split()).rstrip("."))
