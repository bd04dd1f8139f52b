"""The tables of the figures. Knows no query.

`figure` has one row for each environment, task and bucket of time (a minute or an hour); `figure_task` one for each
environment and task, with its totals since the archive began; `figure_summary` the summaries that are counted already.
`figure_death` has the deaths that workers counted and the archive does not have under the same id: `missed_at` says
since when one is looked for; without it, the death came under another id. `figure_letter` counts the deaths that were
archived, by task and reason, `figure_beside` what workers counted beside the figures of their tasks.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from celery_guardrails.store.metadata import UtcDateTime, metadata

__all__ = ["figure", "figure_beside", "figure_death", "figure_letter", "figure_summary", "figure_task"]

_NUMBER = BigInteger().with_variant(Integer, "sqlite")

figure = Table(
    "guardrails_figure",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("environment", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("resolution", Integer, nullable=False),  # seconds
    Column("start_at", UtcDateTime, nullable=False),
    Column("data", JSON, nullable=False),  # `TaskFigures`
    UniqueConstraint("environment", "task", "resolution", "start_at", name="uq_guardrails_figure_environment"),
    Index("ix_guardrails_figure_resolution", "resolution", "start_at"),
)

figure_task = Table(
    "guardrails_figure_task",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("environment", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("first_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("last_started_at", UtcDateTime),
    Column("last_succeeded_at", UtcDateTime),
    Column("data", JSON, nullable=False),  # `TaskFigures`
    UniqueConstraint("environment", "task", name="uq_guardrails_figure_task_environment"),
    Index("ix_guardrails_figure_task_updated_at", "updated_at"),
)

figure_summary = Table(
    "guardrails_figure_summary",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Index("ix_guardrails_figure_summary_at", "at"),
)

figure_death = Table(
    "guardrails_figure_death",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("environment", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("counted_at", UtcDateTime, nullable=False),
    Column("missed_at", UtcDateTime),
    Index("ix_guardrails_figure_death_missed_at", "missed_at"),
    Index("ix_guardrails_figure_death_counted_at", "counted_at"),
)

figure_letter = Table(
    "guardrails_figure_letter",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("environment", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("reason", String(32), nullable=False),
    Column("deaths", BigInteger, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    UniqueConstraint("environment", "task", "reason", name="uq_guardrails_figure_letter_environment"),
    Index("ix_guardrails_figure_letter_updated_at", "updated_at"),
)

figure_beside = Table(
    "guardrails_figure_beside",
    metadata,
    Column("environment", Text, nullable=False),
    Column("name", String(32), nullable=False),
    Column("number", BigInteger, nullable=False),
    PrimaryKeyConstraint("environment", "name", name="pk_guardrails_figure_beside"),
)
