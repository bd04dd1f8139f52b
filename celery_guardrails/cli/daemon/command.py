"""`celery guardian`: the daemon as a process, from start to end.

Owns signals, the log and the exit code. `assembly.py` owns what the guardian is made of.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from celery_guardrails import clock
from celery_guardrails.alerts.service import Report as AlertReport
from celery_guardrails.cli.daemon.assembly import Assembly, alerts_go_to, assembled, await_archive
from celery_guardrails.cli.output import ago, emit_json, note, progress, say
from celery_guardrails.cli.pending import unarchived
from celery_guardrails.cli.project import Project, project_of
from celery_guardrails.command import celery_command
from celery_guardrails.errors import GuardrailsError, StoreError
from celery_guardrails.guardian.guardian import OnceReport
from celery_guardrails.redaction.process import shown
from celery_guardrails.store import lease
from celery_guardrails.store.engine import open_store
from celery_guardrails.store.lease import GuardianSeen
from celery_guardrails.text import count_of
from celery_guardrails.transport.consumer import ConsumerLost, ConsumerRefused

__all__ = ["command", "probe", "serve", "stopped_by_signals"]

logger = logging.getLogger("celery_guardrails.guardian")


def command(ctx: click.Context, *, once: bool, as_json: bool, loglevel: str | None, logfile: str | None) -> None:
    """Run the daemon, or one pass with `once`."""
    project = project_of(ctx)
    _set_up_log(project, loglevel or ("WARNING" if once else "INFO"), logfile)
    try:
        if once:
            _once(project, as_json)
        else:
            with stopped_by_signals() as stop:
                serve(project, stop)
    except ConsumerRefused as exc:
        advice = f"`{project.typed('topology')}` lists the queues and the rights that it needs"
        raise _refused(f"the broker refuses this guardian: {exc}; {advice}") from exc
    except ConsumerLost as exc:
        raise _refused(f"the broker cannot be reached: {exc}") from exc
    except StoreError as exc:
        raise _refused(f"{exc}; dead letters stay in their queue") from exc
    except GuardrailsError as exc:
        raise _refused(str(exc)) from exc


def probe(ctx: click.Context, *, as_json: bool) -> None:
    """Say whether a guardian is alive, by one query. The archive is neither created nor migrated."""
    project = project_of(ctx)
    try:
        seen = _guardians(project)
    except GuardrailsError as exc:
        raise _refused(str(exc)) from exc
    now = clock.now()
    alive = [each for each in seen if each.seen_at >= now - lease.ALIVE]
    last = f", last seen {ago(seen[0].seen_at, now)}" if seen else ""
    if as_json:
        emit_json({"alive": [_seen_as_json(each) for each in alive], "last_seen_at": seen[0].seen_at if seen else None})
    elif alive:
        where = ", ".join(f"{each.host} (process {each.pid})" for each in alive)
        say(f"{count_of(len(alive), 'guardian')} alive{last}: {where}")
        if project.settings.alerts.heartbeat_url is not None:
            note("alerts.heartbeat_url is set: one of them fetches it each minute while all is well.")
    else:
        note(f"No guardian is alive{last}; start one: {celery_command(project.name, 'guardian')}")
    ctx.exit(0 if alive else 1)


def _refused(words: str) -> click.ClickException:
    return click.ClickException(shown(words))


def _guardians(project: Project) -> list[GuardianSeen]:
    url, app = project.settings.store.url, project.name
    store = open_store(url, create=False, verify=False, app=app)
    try:
        with store.read() as conn:
            return lease.guardians(conn)
    except StoreError as exc:
        if not exc.away:
            open_store(url, create=False, app=app).close()  # its error says if there are no tables yet
        raise
    finally:
        store.close()


def _seen_as_json(guardian: GuardianSeen) -> dict[str, Any]:
    return {"host": guardian.host, "pid": guardian.pid, "seen_at": guardian.seen_at}


def serve(project: Project, stop: threading.Event) -> None:
    """Run the guardian until `stop` is set. It finishes a batch under way, and waits for an archive that is away.

    Raises:
        ConfigurationError: a setting or a policy is wrong.
        StoreError: the archive cannot be opened, and waiting would not help.
    """
    store = await_archive(project, stop)
    if store is not None:
        with assembled(project, store) as assembly:
            for line in assembly.introduction():
                logger.info(line)
            for caution in assembly.cautions():
                logger.warning(caution)
            logger.info("guardian started, process %d", os.getpid())
            assembly.guardian.run(stop)
    logger.info("guardian stopped")


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set. A second signal of the same kind ends the process at once."""
    stop = threading.Event()

    def request_stop(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _once(project: Project, as_json: bool) -> None:
    with assembled(project, once=True) as assembly:
        total = unarchived(project, assembly.queues)
        with progress("archiving", total) as advance:
            archived, alerts = assembly.once(advance)
        if as_json:
            emit_json(_as_json(assembly, archived, alerts))
        else:
            say(_summary(assembly, archived, alerts))


def _as_json(assembly: Assembly, archived: OnceReport, alerts: AlertReport) -> dict[str, Any]:
    return {
        "archived": archived.archived,
        "recovered": archived.recovered,
        "known": archived.known,
        "held": archived.held,
        "alerts_sent": alerts.delivery.sent,
        "alerts_waiting": alerts.delivery.waiting,
        "archive": assembly.store.url,
    }


def _summary(assembly: Assembly, archived: OnceReport, alerts: AlertReport) -> str:
    words = [f"Archived {count_of(archived.archived, 'dead letter')}"]
    words += [f"confirmed {count_of(archived.recovered, 'recovery', 'recoveries')}"] if archived.recovered else []
    words += [f"{count_of(archived.known, 'message')} already known"] if archived.known else []
    words += [f"{count_of(archived.held, 'message')} left in the queue, see the log"] if archived.held else []
    if alerts.delivery.sent:
        words.append(f"sent {count_of(alerts.delivery.sent, 'alert')} to {alerts_go_to(assembly.settings)}")
    if alerts.delivery.waiting:
        words.append(f"{count_of(alerts.delivery.waiting, 'alert')} not sent yet, the next guardian tries again")
    return "; ".join(words) + "."


def _set_up_log(project: Project, level: str, logfile: str | None) -> None:
    if logging.getLevelName(level.upper()) == f"Level {level.upper()}":
        raise click.BadParameter(
            f"{level!r} is not a log level; write DEBUG, INFO, WARNING, ERROR or CRITICAL", param_hint="--loglevel"
        )
    project.app.log.setup(level.upper(), logfile, redirect_stdouts=False)
    logger.setLevel(level.upper())
    # Alembic logs each step of a migration, which does not help whoever runs a guardian.
    logging.getLogger("alembic").setLevel(logging.WARNING)
