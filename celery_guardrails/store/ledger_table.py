"""The table of the ledger: one row for each key, from its first run until it is forgotten. Knows no query."""
# on its own: each file of tables is read by the migrations' tests

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, Text

from celery_guardrails.store.metadata import UtcDateTime, metadata

__all__ = ["ledger"]

ledger = Table(
    "guardrails_ledger",
    metadata,
    Column("digest", Text, primary_key=True),  # of environment, scope and text together
    Column("environment", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("text", Text, nullable=False),  # as people know the key
    Column("state", Text, nullable=False),  # running, free, done
    Column("fence", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    Column("work", Text, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("arguments", Text, nullable=False),  # a digest
    Column("task", Text, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("began_at", UtcDateTime, nullable=False),
    Column("until", UtcDateTime, nullable=False),
    Column("done_at", UtcDateTime),
    Column("kept", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("content_type", Text, nullable=False),
    Index("ix_guardrails_ledger_owner", "owner"),
    Index("ix_guardrails_ledger_until", "until"),
)
