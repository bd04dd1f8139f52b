"""Alembic's entry: runs the revisions on the connection, and in the transaction, that `Store.migrate` opened."""

from __future__ import annotations

from alembic import context

from celery_guardrails.store.engine import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
