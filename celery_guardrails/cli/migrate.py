"""`guardrails migrate`: bring the archive's schema up to this version's."""
# on its own: each command is a file, imported only when somebody types it

from __future__ import annotations

import logging

import click

from celery_guardrails.cli.output import say
from celery_guardrails.cli.project import project_of

__all__ = ["migrate"]


@click.command()
@click.pass_context
def migrate(ctx: click.Context) -> None:
    """Bring the archive's tables up to date. Safe to run at any time, and twice."""
    from celery_guardrails.store.engine import open_store

    logging.getLogger("alembic").setLevel(logging.WARNING)
    project = project_of(ctx)
    store = open_store(project.settings.store.url, app=project.name)
    try:
        store.migrate()
    finally:
        store.close()
    say(f"The archive {store.url} is up to date.")
