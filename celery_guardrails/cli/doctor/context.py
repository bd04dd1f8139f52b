"""What checks look at: the application, its broker and its archive. Each is asked once, when a check first needs it.

Owns these connections, and closes them at the end. It must not know which checks there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from amqp.exceptions import AccessRefused
from celery import Task
from kombu import Connection

from celery_guardrails import clock
from celery_guardrails.app.guardrails import BUILT_IN
from celery_guardrails.app.topology import dead_letter_queues, needed_topology
from celery_guardrails.cli.project import Project
from celery_guardrails.errors import ConfigurationError, StoreError
from celery_guardrails.store import lease
from celery_guardrails.store.engine import Store, open_store
from celery_guardrails.store.lease import GuardianSeen
from celery_guardrails.transport.connection import opened
from celery_guardrails.transport.lack import Lack, lacks
from celery_guardrails.transport.right import refusal
from celery_guardrails.transport.topology import Topology

__all__ = ["Answered", "BrokerAway", "Context", "StoreAway"]

_BROKER_TIMEOUT = 4.0
_WORKERS_TIMEOUT = 1.0
_LISTENING = frozenset({"amqp", "redis"})


class BrokerAway(Exception):
    """The broker does not answer; the message says why."""


class StoreAway(Exception):
    """The archive cannot be opened; `.error` says why."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True, slots=True)
class Answered:
    """An open connection."""

    connection: Connection


class Context:
    """What the checks of one command share.

    Args:
        project: the application.
        online: whether checks may connect to anything.

    Attributes:
        unasked: why RabbitMQ did not let `pools` ask the workers; `None`: it did, or nobody has tried.
    """

    def __init__(self, project: Project, *, online: bool = True) -> None:
        self.project = project
        self.online = online
        self.unasked: str | None = None
        self._line_shown = False
        self.app = project.app
        self.guardrails = project.guardrails
        self.settings = self.guardrails.settings
        self.conf: Any = self.app.conf

    @property
    def now(self) -> datetime:
        """This instant."""
        return clock.now()

    @cached_property
    def guarded(self) -> list[Task]:
        """The tasks under guard, acknowledging as their policies say."""
        with suppress(ConfigurationError):  # the check of the settings reports it
            self.guardrails.prepare()
        return self.guardrails.guarded_tasks()

    @cached_property
    def plain(self) -> list[Task]:
        """The application's other tasks, without Celery's own."""
        guarded = {task.name for task in self.guarded}
        return [t for name, t in sorted(self.app.tasks.items()) if name not in guarded and not BUILT_IN.match(name)]

    @property
    def tasks(self) -> list[Task]:
        """All tasks of the application."""
        return [*self.guarded, *self.plain]

    @property
    def exposed(self) -> list[Task]:
        """The tasks that guardrails does not protect: the plain ones, and all where it is switched off."""
        return self.plain if self.settings.enabled else self.tasks

    @cached_property
    def transport(self) -> str:
        """The kind of broker, as kombu names its drivers: `redis`, `amqp`, ...; `unknown` without its client."""
        try:
            with self.app.connection_for_write() as connection:
                return str(connection.transport.driver_type)
        except Exception:  # noqa: BLE001 the check that connects reports it
            return "unknown"

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """The broker's transport options, as configured."""
        return dict(self.conf.broker_transport_options or {})

    @cached_property
    def broker_url(self) -> str:
        """The broker's address without its password: the one that answered, or all of them where none answered."""
        if isinstance(self._opened, Answered):
            return shown_address(self._opened.connection)
        return ", ".join(self.addresses)

    @cached_property
    def addresses(self) -> dict[str, str | None]:
        """Every address of the broker without its password, and the URL to open it; `None`: it is the only address."""
        with self.app.connection_for_write() as connection:
            urls = [str(url) for url in connection.alt or ()]
            if len(urls) < 2:
                return {shown_address(connection): None}
        found: dict[str, str | None] = {}
        for url in urls:
            with self.app.connection_for_write(url) as connection:
                found.setdefault(shown_address(connection), url)
        return found

    def refuses(self, url: str) -> str | None:
        """Why one of several addresses does not answer; `None`: it does."""
        try:
            opened(self.app, url, timeout=_BROKER_TIMEOUT).release()
        except Exception as exc:  # noqa: BLE001 each transport has errors of its own
            return f"{type(exc).__name__}: {exc}"
        return None

    @cached_property
    def _opened(self) -> Answered | BrokerAway:
        try:
            connection = opened(self.app, timeout=_BROKER_TIMEOUT)
        except Exception as exc:  # noqa: BLE001 each transport has errors of its own, and a missing client is one
            return BrokerAway(f"{type(exc).__name__}: {exc}")
        return Answered(connection)

    @property
    def broker(self) -> Answered:
        """The broker.

        Raises:
            BrokerAway: it does not answer.
        """
        if isinstance(self._opened, BrokerAway):
            raise self._opened
        return self._opened

    @cached_property
    def redis(self) -> Any:
        """The client of a Redis broker. Raises BrokerAway."""
        return self.broker.connection.default_channel.client

    @cached_property
    def dead_letter_queues(self) -> tuple[str, ...]:
        """Every queue that settings and policies send dead letters to."""
        return dead_letter_queues(self.guardrails)

    @cached_property
    def topology(self) -> Topology:
        """What must exist on RabbitMQ."""
        return needed_topology(self.guardrails)

    @cached_property
    def lacks(self) -> list[Lack]:
        """What this user of RabbitMQ lacks; empty on another broker, and offline.

        Raises:
            BrokerAway: the broker does not answer.
        """
        return lacks(self.broker.connection, self.topology) if self.online and self.transport == "amqp" else []

    def rights_fix(self, *, declare: bool = True) -> str:
        """How to give this user of RabbitMQ what it lacks. The long line that gives the rights is shown only once.

        Args:
            declare: whether somebody has to declare something first.

        Raises:
            BrokerAway: the broker does not answer.
        """
        first = f"have it declared (see {self.project.typed('topology')}), then " if declare else ""
        if self._line_shown:
            return f"{first}give the rights by the set_permissions line above"
        connection = self.broker.connection
        line = self.topology.rights.command(str(connection.virtual_host or "/"), str(connection.userid))
        self._line_shown = True
        return f"{first}give the rights: {line}"

    @cached_property
    def _archive(self) -> Store | StoreAway:
        try:
            return open_store(self.settings.store.url, create=False, app=self.project.name)
        except StoreError as exc:
            return StoreAway(exc)

    @property
    def archive(self) -> Store:
        """The archive, as it is: neither created nor migrated.

        Raises:
            StoreAway: there is none, or it cannot be opened.
        """
        if isinstance(self._archive, StoreAway):
            raise self._archive
        return self._archive

    @cached_property
    def guardians(self) -> list[GuardianSeen]:
        """The guardians that have ever been seen, the last seen first.

        Raises:
            StoreAway: the archive cannot be read.
        """
        try:
            with self.archive.read() as conn:
                return lease.guardians(conn)
        except StoreError as exc:
            raise StoreAway(exc) from exc

    @property
    def guardians_alive(self) -> list[GuardianSeen]:
        """Those that were seen in the last 30 seconds. Raises StoreAway."""
        since = self.now - lease.ALIVE
        return [guardian for guardian in self.guardians if guardian.seen_at >= since]

    @cached_property
    def pools(self) -> dict[str, str]:
        """The pool of each worker that answers within a second, by node name, such as `threads`.

        Raises:
            BrokerAway: the broker does not answer.
        """
        if self.transport not in _LISTENING:
            return {}
        connection = self.broker.connection.clone()
        try:
            answers = self.app.control.inspect(timeout=_WORKERS_TIMEOUT, connection=connection).stats() or {}
        except AccessRefused as exc:
            self.unasked = refusal(exc)
            return {}
        finally:
            connection.release()
        return {node: _pool(stats.get("pool", {}).get("implementation", "")) for node, stats in answers.items()}

    @cached_property
    def at_work(self) -> frozenset[str]:
        """The ids of all tasks that the answering workers hold: tasks that run, and tasks that wait in a worker.

        Raises:
            BrokerAway: the broker does not answer.
        """
        if not self.pools:
            return frozenset()
        connection = self.broker.connection.clone()
        try:
            inspect = self.app.control.inspect([*self.pools], timeout=_WORKERS_TIMEOUT, connection=connection)
            answers = [answer for ask in (inspect.active, inspect.reserved, inspect.scheduled) for answer in [ask()]]
        finally:
            connection.release()
        held = [entry for answer in answers for entries in (answer or {}).values() for entry in entries]
        return frozenset(str(entry.get("request", entry).get("id")) for entry in held)

    def close(self) -> None:
        """Close what was opened."""
        if isinstance(answered := self.__dict__.get("_opened"), Answered):
            answered.connection.release()
        if isinstance(store := self.__dict__.get("_archive"), Store):
            store.close()


def shown_address(connection: Connection) -> str:
    """The address of a connection, with its password masked."""
    shown = str(connection.as_uri())
    # for Redis, kombu masks a password even where there is none
    return shown if connection.password else shown.replace("//:**@", "//")


def _pool(implementation: str) -> str:
    """The name after `-P` of a pool class, such as `celery.concurrency.thread:TaskPool`."""
    module = implementation.partition(":")[0].rpartition(".")[2]
    return {"thread": "threads"}.get(module, module)
