"""The commands, as Celery finds them: `celery guardian`, `celery guardrails`, and `celery worker --guardian`.

Celery imports this module for every command of every application, before it imports the application. So it must be
cheap and know nothing: what a command needs is imported when the command runs.
"""

from __future__ import annotations

import sys
from typing import Any

import click
from celery.bin.base import CeleryOption, handle_preload_options
from celery.bin.worker import worker
from celery.signals import celeryd_init

from celery_guardrails.app.config_report import hide_settings
from celery_guardrails.cli.group import CleanCommand, LazyGroup

__all__ = ["guardian", "guardrails"]


@click.command(cls=CleanCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--once", is_flag=True, help="Archive and alert on what is waiting now, then exit.")
@click.option("--check", is_flag=True, help="Only say whether some guardian is alive: exit code 0 if so, else 1.")
@click.option("--json", "as_json", is_flag=True, help="With --once or --check: print the outcome as one JSON object.")
@click.option("-l", "--loglevel", metavar="LEVEL", default=None, help="Default INFO, with --once WARNING.")
@click.option("-f", "--logfile", metavar="PATH", default=None, help="Default: standard error.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def guardian(
    ctx: click.Context,
    once: bool,
    check: bool,
    as_json: bool,
    loglevel: str | None,
    logfile: str | None,
    **_preload: Any,
) -> None:
    """Archive dead letters, post alerts, confirm recoveries: runs until SIGTERM."""
    from celery_guardrails.cli.daemon.command import command, probe

    if once and check:
        raise click.UsageError("Give --once or --check, not both.", ctx)
    if as_json and not (once or check):
        raise click.UsageError("--json needs --once or --check: the daemon reports in its log.", ctx)
    if check:
        probe(ctx, as_json=as_json)
        return
    command(ctx, once=once, as_json=as_json, loglevel=loglevel, logfile=logfile)


@click.group(
    cls=LazyGroup,
    commands_at={
        "status": "celery_guardrails.cli.status.command:status",
        "check": "celery_guardrails.cli.check:check",
        "policy": "celery_guardrails.cli.policy:policy",
        "dlq": "celery_guardrails.cli.dlq:dlq",
        "retries": "celery_guardrails.cli.retries:retries",
        "alerts": "celery_guardrails.cli.alerts:alerts",
        "idempotency": "celery_guardrails.cli.idempotency:idempotency",
        "audit": "celery_guardrails.cli.audit:audit",
        "doctor": "celery_guardrails.cli.doctor.command:doctor",
        "topology": "celery_guardrails.cli.topology:topology",
        "migrate": "celery_guardrails.cli.migrate:migrate",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def guardrails(ctx: click.Context, **_preload: Any) -> None:
    """See what failed and why, put it back, and check the policies."""


def _embed(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    if value and not ctx.resilient_parsing:
        from celery_guardrails.cli.daemon.embedded import EmbeddedGuardian

        ctx.obj.app.steps["worker"].add(EmbeddedGuardian)
    return value


def _extend_worker() -> None:
    if all(param.name != "guardian" for param in worker.params):
        worker.params.append(
            CeleryOption(
                ["--guardian"],
                is_flag=True,
                callback=_embed,
                help_group="Features",
                help="Run a guardian inside this worker, which archives dead letters and posts alerts.",
            )
        )


def _collect_faults() -> None:
    # `check` lists all wrong declarations at once: they must not stop the import of the application, which comes next.
    words = sys.argv[1:]
    if "guardrails" in words and "check" in words[words.index("guardrails") :]:
        from celery_guardrails.policy import faults

        faults.start()


@celeryd_init.connect(weak=False)  # type: ignore[untyped-decorator]
def _install_by_settings(instance: Any = None, **_: Any) -> None:
    """Install guardrails in a worker whose settings name it, even if no code of the application names it.

    A worker with guardrails ends here if an address cannot be read as it is meant. Celery would read the broker's
    address next, and end with a traceback that quotes a part of the password.
    """
    if instance is None:
        return
    app = instance.app
    if app.conf.get("guardrails") is not None:
        from celery_guardrails.task import Guardrails

        Guardrails.of(app)
    if "_celery_guardrails" in vars(app):
        from celery_guardrails.transport.address import address_faults

        if found := address_faults(app):
            raise SystemExit("\n".join(["Error: celery-guardrails is not configured right.", *map(str, found)]))


_extend_worker()
_collect_faults()
hide_settings()
