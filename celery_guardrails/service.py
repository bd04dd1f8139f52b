"""Services: what a worker or a guardian does now and then, beside its work.

Owns their shape (`name`, `every`, `run_once(now, flush)`), when each is due, and what follows a failure: the service
waits longer each time, and the log says so once. It must not know what services do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from celery_guardrails.errors import StoreError

__all__ = ["Patience", "Runner", "Service"]


class Service(Protocol):
    """Something that a worker or a guardian does now and then.

    Attributes:
        name: for the log.
    """

    name: str

    @property
    def every(self) -> timedelta:
        """How often it runs; it may change from one time to the next."""

    def run_once(self, now: datetime, flush: bool) -> object:
        """Do the work once. `flush`: the process ends afterwards, so do not wait for anything."""


class Patience:
    """How long to wait before the next try after a failure: 1 second, then twice as long each time, at most 5."""

    def __init__(self) -> None:
        self._until: datetime | None = None
        self._pause = timedelta(seconds=1)

    def allows(self, now: datetime) -> bool:
        """Whether the wait is over, or there was no failure."""
        # a clock that was set back must not make it wait for hours
        return self._until is None or not timedelta(0) < self._until - now <= self._pause

    def fail(self, now: datetime) -> bool:
        """Note a failure; returns whether it is the first one in a row."""
        first = self._until is None
        self._pause = timedelta(seconds=1) if first else min(2 * self._pause, timedelta(seconds=5))
        self._until = now + self._pause
        return first

    def succeed(self) -> bool:
        """Note a success; returns whether it is the first one after a failure."""
        first, self._until = self._until is not None, None
        return first


class Runner:
    """Runs services by turns, each when it is due.

    Args:
        services: what to run.
        logger: gets a warning when a service fails, and when it runs again.
        called: how the log names a service, such as `the service %s`.
    """

    def __init__(self, services: Sequence[Service], logger: logging.Logger, called: str = "the service %s") -> None:
        self.services = list(services)
        self._logger = logger
        self._called = called
        self._ran: dict[str, datetime] = {}
        self._patience = {service.name: Patience() for service in self.services}

    def add(self, service: Service) -> None:
        """Run one more service, after the others."""
        self.services.append(service)
        self._patience[service.name] = Patience()

    def serve(self, now: Callable[[], datetime], is_over: Callable[[], bool] = lambda: False) -> None:
        """Run the services that are due; never raises.

        Args:
            now: the clock.
            is_over: whether to start no further service.
        """
        for service in self.services:
            at = now()
            if not is_over() and self.is_due(service, at):
                self._ran[service.name] = at
                self._run(service, at)

    def is_due(self, service: Service, now: datetime) -> bool:
        """Whether it is time for a service."""
        ran = self._ran.get(service.name)
        # a clock that was set back must not make it wait for hours
        waits = ran is not None and timedelta(0) <= now - ran < service.every
        return not waits and self._patience[service.name].allows(now)

    def idle(self, now: datetime, least: float, most: float) -> float:
        """Seconds until the next service is due, within bounds; `least` where one is due now."""
        if any(self.is_due(service, now) for service in self.services):
            return least
        left = [
            (ran + each.every - now) / timedelta(seconds=1)
            for each in self.services
            if (ran := self._ran.get(each.name))
        ]
        return min([most, *(max(least, seconds) for seconds in left if seconds > 0)])

    def _run(self, service: Service, now: datetime) -> None:
        name, patience = self._called % service.name, self._patience[service.name]
        try:
            service.run_once(now, flush=False)
        except Exception as exc:
            if patience.fail(now):
                # a `StoreError` needs no traceback
                trace = not isinstance(exc, StoreError)
                self._logger.warning("%s failed, and is tried again: %s", name, exc, exc_info=trace)
        else:
            if patience.succeed():
                self._logger.warning("%s runs again", name)
