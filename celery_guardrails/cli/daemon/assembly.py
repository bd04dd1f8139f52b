"""Assembles a guardian from an application: its queues, archive and services, and the lines that it logs at start.

It is in `cli/` because only the commands know both Celery and the guardian. It must not know who starts the guardian.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import uuid4

from celery_guardrails import clock
from celery_guardrails.access import exposure
from celery_guardrails.alerts.lease import StoreLease
from celery_guardrails.alerts.service import AlertService
from celery_guardrails.alerts.service import Report as AlertReport
from celery_guardrails.alerts.sinks.build import unreachable_channels
from celery_guardrails.app.topology import dead_letter_queues
from celery_guardrails.cli.daemon.alerting import alert_service, watching
from celery_guardrails.cli.daemon.metrics import figure_counting, serving
from celery_guardrails.cli.project import Project
from celery_guardrails.destination import Means
from celery_guardrails.errors import ConfigurationError, StoreError
from celery_guardrails.guardian.beacon import Beacon
from celery_guardrails.guardian.figures import FigureCounting, Reconciliation
from celery_guardrails.guardian.guardian import Guardian, OnceReport
from celery_guardrails.guardian.health import Health
from celery_guardrails.guardian.ingest import Ingest
from celery_guardrails.guardian.pruning import LedgerPruning, Pruning
from celery_guardrails.guardian.service import Alerting, Heartbeat, RequeueFinishing
from celery_guardrails.letters.redaction import LetterRedaction
from celery_guardrails.service import Service
from celery_guardrails.settings import Settings
from celery_guardrails.store import lease
from celery_guardrails.store.engine import Store, open_store, sqlite_file, sqlite_files
from celery_guardrails.store.probe import probe
from celery_guardrails.text import count_of
from celery_guardrails.transport.compression import bound_unpacking
from celery_guardrails.transport.consumer import DeadLetterConsumer
from celery_guardrails.transport.dead_letter import Replayer, declared_queue, recovered_queue
from celery_guardrails.transport.spool import Spool
from celery_guardrails.worker.failure.broker_services import BrokerServices

__all__ = ["Assembly", "alerts_go_to", "assembled", "await_archive", "dead_letter_queues", "open_archive"]

logger = logging.getLogger("celery_guardrails.guardian")

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 10.0
DRAIN = timedelta(seconds=30)
"""How long `--once` waits for a slow sink; what is left stays in the archive for the next guardian."""


@dataclass(frozen=True)
class Assembly:
    """A guardian and its parts.

    `queues` are the dead-letter queues that it consumes; for each it also consumes the queue for recoveries. `broker`
    ships the `spool` and releases waiting messages that are due. `ledger` prunes the ledger of idempotent work.
    `figures` counts the workers' summaries (`None`: this broker carries none), `health` is what the guardian's loop
    knows of itself.
    """

    guardian: Guardian
    alerts: AlertService
    store: Store
    settings: Settings
    queues: tuple[str, ...]
    poster: StoreLease
    broker: BrokerServices
    spool: Spool
    ledger: LedgerPruning
    figures: FigureCounting | None = None
    health: Health = field(default_factory=Health)

    def once(self, progress: Callable[[int], None]) -> tuple[OnceReport, AlertReport]:
        """Ship the spool, archive what waits, then post the alerts; for a guardian that was assembled with `once`.

        Raises:
            ConsumerLost: the broker cannot be reached.
            StoreError: the archive cannot be written.
        """
        for service in self.broker.services:
            service.run_once(clock.now(), flush=True)
        archived = self.guardian.run_once(progress)
        return archived, self.alerts.drain(DRAIN)

    def introduction(self) -> list[str]:
        """Where the archive is, what is consumed, where alerts go, and what to keep in mind."""
        lines = [
            f"archive: {self.store.url}",
            f"dead-letter queues: {', '.join(self.queues)}",
            f"spool: {self.spool.directory}",
            f"alerts go to {alerts_go_to(self.settings)}",
        ]
        if self.settings.metrics.port is not None:
            lines.append(f"metrics: http://{self.settings.metrics.host}:{self.settings.metrics.port}/metrics")
        if self.store.engine.dialect.name == "sqlite":
            lines.append(
                "SQLite is for guardians on one machine with a disk that lasts; "
                "set store.url to postgresql://... for more than one, or in a container without a volume"
            )
        if self.settings.alerts.heartbeat_url is not None:
            lines.append("heartbeat: alerts.heartbeat_url is fetched each minute while all is well")
        if self.figures is None:
            lines.append("this broker carries no figures of workers: no rates, and nothing is called overdue")
        if not self.settings.enabled:
            lines.append("enabled is False: guarded tasks behave as plain ones, nothing new will arrive")
        return lines

    def cautions(self) -> list[str]:
        """What is allowed, but is probably a mistake."""
        closed = unreachable_channels(self.settings)
        words = "routes name channels of Slack ({}), but slack.token is not set: these alerts go to {}"
        lost = [words.format(", ".join(dict.fromkeys(closed)), _default_sink(self.settings))] if closed else []
        return [*lost, *self._exposed()]

    def _exposed(self) -> list[str]:
        """Who else may read an SQLite archive. The files stay as they are: another version may have made them."""
        path = sqlite_file(self.settings.store.url)
        try:
            found = exposure(sqlite_files(path.resolve())) if path else []
        except OSError:  # removed meanwhile
            return []
        return [f"archive: {each}. Type: {each.fix}" for each in found]


def alerts_go_to(settings: Settings) -> str:
    """Where alerts go, in words and without secrets."""
    alerts = settings.alerts
    routed = ", ".join(dict.fromkeys(route.to.name for route in alerts.routes))
    routes = f", and by {count_of(len(alerts.routes), 'route')} to {routed}" if routed else ""
    fallback = "" if alerts.fallback.means is Means.LOG else f" (else to {alerts.fallback.name})"
    return _default_sink(settings) + routes + fallback


def _default_sink(settings: Settings) -> str:
    if settings.slack.token is not None:
        return f"Slack, channel {settings.slack.channel}"
    if settings.slack.webhook_url is not None:
        return "Slack, through a webhook"
    return "the log, because no Slack is set"


def open_archive(project: Project) -> Store:
    """Open the archive, ready for writing; a database without our tables gets them.

    Raises:
        ConfigurationError: a setting or a policy is wrong.
        StoreError: the archive cannot be opened.
    """
    if faults := project.guardrails.faults():
        raise ConfigurationError(faults)
    store = open_store(project.settings.store.url, app=project.name)
    try:
        return store.ready()
    except StoreError:
        store.close()
        raise


def await_archive(project: Project, stop: threading.Event) -> Store | None:
    """Open the archive; wait for its database as long as it takes.

    Returns:
        `None`: `stop` was set before the database answered.

    Raises:
        ConfigurationError: a setting or a policy is wrong.
        StoreError: the archive cannot be opened, and waiting would not help.
    """
    pause, logged = _FIRST_PAUSE, False
    while True:
        try:
            store = open_archive(project)
        except StoreError as exc:
            if not exc.away:
                raise
            if not logged:
                logger.warning("%s; dead letters stay in their queue; the guardian tries again until it answers", exc)
            logged = True
        else:
            if logged:
                logger.warning("archive %s: it answers again", store.url)
            return store
        if stop.wait(pause):
            return None
        pause = min(2 * pause, _LONGEST_PAUSE)


@contextmanager
def assembled(project: Project, store: Store | None = None, *, once: bool = False) -> Iterator[Assembly]:
    """Assemble a guardian for this project; at the end, release its lease and remove its heartbeat.

    Args:
        project: the application.
        store: the archive, ready; it is closed at the end. `None`: it is opened here.
        once: leave out the heartbeat, and the services that `Assembly.once` runs itself: the broker's and the alerts.

    Raises:
        ConfigurationError: a setting or a policy is wrong.
        StoreError: the archive cannot be opened; nothing is consumed then.
    """
    store = store or open_archive(project)
    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
    try:
        assembly = _assemble(project, store, owner, once)
    except BaseException:
        store.close()
        raise
    try:
        with (
            nullcontext()
            if once
            else serving(project, store, assembly.alerts.poster, assembly.health, assembly.figures)
        ):
            yield assembly
    finally:
        _sign_off(assembly, owner)


def _assemble(project: Project, store: Store, owner: str, once: bool) -> Assembly:
    guardrails, settings = project.guardrails, project.guardrails.settings
    bound_unpacking(settings.dead_letter.max_decompressed)
    queues = dead_letter_queues(guardrails)
    recovered = [recovered_queue(queue) for queue in queues]
    arguments = settings.dead_letter.queue_arguments
    consumer = DeadLetterConsumer(project.app, [declared_queue(name, arguments) for name in (*queues, *recovered)])
    poster = StoreLease(store, owner)
    alerts = alert_service(project, store, poster)
    broker = BrokerServices(guardrails)
    figures = figure_counting(project, store)
    ledger = LedgerPruning(settings.idempotency.url or settings.store.url)
    services: list[Service] = [
        RequeueFinishing(store, Replayer(project.app, project.publisher)),
        Pruning(store, settings.retention, owner),
        ledger,
    ]
    if figures is not None:
        services += [figures, Reconciliation(store, consumer.waiting)]
    if not once:
        services = [Heartbeat(store, owner, clock.now()), Alerting(alerts), *services, *broker.services]
    redaction = LetterRedaction(settings.redact, settings.redact_patterns)
    health = Health()
    ingest = Ingest(store, recovered, settings.environment, redaction)
    guardian = Guardian(consumer, ingest, services, health=health)
    if not once:
        for service in watching(project, store, alerts, lambda: bool(guardian.away), figures):
            guardian.add(service)
    if settings.alerts.heartbeat_url is not None and not once:
        url = settings.alerts.heartbeat_url.get_secret_value()
        guardian.add(Beacon(url, lambda: alerts.poster.leads, lambda: _unwell(guardian, store, alerts)))
    return Assembly(
        guardian, alerts, store, settings, queues, poster, broker, guardrails.spool, ledger, figures, health
    )


def _unwell(guardian: Guardian, store: Store, alerts: AlertService) -> list[str]:
    """What does not work at present, in words."""
    found = [f"{each} is away" for each in sorted(guardian.away)]
    found += [f"{name} does not take alerts" for name, well in alerts.poster.well.items() if not well]
    try:
        probe(store)
    except StoreError:
        found.append("the archive cannot be written")
    return found


def _sign_off(assembly: Assembly, owner: str) -> None:
    try:
        assembly.poster.release(clock.now())
        with assembly.store.begin() as conn:
            lease.forget(conn, owner)
    except StoreError as exc:
        logger.warning("could not sign off; another guardian takes over when the lease of this one ends: %s", exc)
    finally:
        if assembly.figures is not None:
            assembly.figures.close()
        assembly.ledger.close()
        assembly.broker.close()
        assembly.store.close()
