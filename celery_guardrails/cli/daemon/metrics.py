"""What a guardian counts and serves beside its archiving: the workers' figures, and `/metrics` with `/healthz`.

Owns what these need of the application. `assembly.py` decides when they are made, and closes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from celery_guardrails import clock
from celery_guardrails.alerts.outbox import Poster
from celery_guardrails.app.guardrails import Guardrails
from celery_guardrails.cli.overdue import overdue_entries
from celery_guardrails.cli.project import Project
from celery_guardrails.errors import ConfigurationError, Fault, SpoolError
from celery_guardrails.guardian.figures import FigureCounting
from celery_guardrails.guardian.health import Health
from celery_guardrails.policy.alert import limits
from celery_guardrails.store.engine import Store
from celery_guardrails.transport.consumer import DeadLetterConsumer
from celery_guardrails.transport.figures import carries_figures, declared_figures_queue
from celery_guardrails.transport.publisher import Publisher
from celery_guardrails.transport.waiting.build import waiting_for

__all__ = ["figure_counting", "files_of", "serving"]

_ANSWER = timedelta(seconds=2)


def figure_counting(project: Project, store: Store) -> FigureCounting | None:
    """The service that counts the workers' summaries; `None`: this broker cannot bound their queue, so has none."""
    if not carries_figures(project.app):
        return None
    queue = declared_figures_queue(project.settings.dead_letter.queue)
    return FigureCounting(store, DeadLetterConsumer(project.app, [queue]))


@contextmanager
def serving(
    project: Project, store: Store, poster: Poster, health: Health, figures: FigureCounting | None
) -> Iterator[None]:
    """Serve metrics and health meanwhile, if the settings name a port.

    Args:
        project: the application.
        store: the archive.
        poster: what delivers alerts.
        health: what the guardian's loop knows of itself.
        figures: the service that counts summaries; `None`: there is none.

    Raises:
        ConfigurationError: `prometheus-client` is not installed, or nothing can listen on that port.
    """
    settings = project.settings
    if settings.metrics.port is None:
        yield
        return
    try:
        from celery_guardrails.guardian.metrics import Sources
        from celery_guardrails.guardian.metrics_server import MetricsServer
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "prometheus_client":
            raise
        words, hint = "needs prometheus-client, which is not installed", "pip install 'celery-guardrails[prometheus]'"
        raise ConfigurationError([Fault("metrics.port", str(settings.metrics.port), words, None, hint)]) from exc
    by_task = {name: policy.alert for name, policy in project.guardrails.policies().items()}
    publisher = Publisher(project.app, _ANSWER)
    waiting = waiting_for(project.app, publisher)
    sources = Sources(
        store,
        settings.environment,
        health,
        waiting.count,
        files_of(project.guardrails),
        figures.dropped if figures is not None else {},
        lambda: poster.well,
        missing=limits(settings.alerts.thresholds.unreconciled, "unreconciled", by_task),
        overdue=lambda: [each.task for each in overdue_entries(project.guardrails, store, clock.now())],
    )
    server = MetricsServer(settings.metrics.host, settings.metrics.port, sources)
    try:
        yield
    finally:
        server.close()
        for line in (publisher, waiting):
            close: Callable[[], None] = getattr(line, "close", _nothing)  # only some ways to wait have a connection
            with suppress(Exception):
                close()


def files_of(guardrails: Guardrails) -> Callable[[], int | None]:
    """How many files are in this host's spool, as a function; it returns `None` where the spool cannot be read."""

    def files() -> int | None:
        try:
            return guardrails.spool.status().entries
        except SpoolError:
            return None

    return files


def _nothing() -> None:
    """Closes a way to wait that has no connection."""
