"""Figures: what workers counted, by minute and by hour; the deaths in all, and those that the archive lacks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables of the figures."""
    _make_figures()
    _make_notes()


def _make_figures() -> None:
    op.create_table(
        "guardrails_figure",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("resolution", sa.Integer(), nullable=False),
        sa.Column("start_at", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_guardrails_figure"),
        sa.UniqueConstraint("environment", "task", "resolution", "start_at", name="uq_guardrails_figure_environment"),
    )
    op.create_index("ix_guardrails_figure_resolution", "guardrails_figure", ["resolution", "start_at"])
    op.create_table(
        "guardrails_figure_task",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("last_started_at", sa.BigInteger()),
        sa.Column("last_succeeded_at", sa.BigInteger()),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_guardrails_figure_task"),
        sa.UniqueConstraint("environment", "task", name="uq_guardrails_figure_task_environment"),
    )
    op.create_index("ix_guardrails_figure_task_updated_at", "guardrails_figure_task", ["updated_at"])


def _make_notes() -> None:
    op.create_table(
        "guardrails_figure_summary",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_guardrails_figure_summary"),
    )
    op.create_index("ix_guardrails_figure_summary_at", "guardrails_figure_summary", ["at"])
    op.create_table(
        "guardrails_figure_death",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("counted_at", sa.BigInteger(), nullable=False),
        sa.Column("missed_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_guardrails_figure_death"),
    )
    op.create_index("ix_guardrails_figure_death_missed_at", "guardrails_figure_death", ["missed_at"])
    op.create_index("ix_guardrails_figure_death_counted_at", "guardrails_figure_death", ["counted_at"])
    op.create_table(
        "guardrails_figure_letter",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("deaths", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_guardrails_figure_letter"),
        sa.UniqueConstraint("environment", "task", "reason", name="uq_guardrails_figure_letter_environment"),
    )
    op.create_index("ix_guardrails_figure_letter_updated_at", "guardrails_figure_letter", ["updated_at"])
